"""The embedding explorer: its data, its page, and the page in a browser."""

import base64
import io
import json
import re
import shutil
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anchor_utils import embeddings
from anchor_utils.config import load_preset
from anchor_utils.data import load_data
from anchor_utils.runs import Run
from course import explorer
from course.figures.lesson_07 import CLASS_COLORS

METHODS, EPOCHS, IMAGES = ("pgd_at", "anchor"), (0, 2), 30
FIELDS = {"width": 2, "projection_dim": 8, "epochs": 2, "train_images": 200, "validation_images": 40, "device": "cpu"}


def command(folder, *arguments, methods=METHODS, epochs=EPOCHS, images=IMAGES):
    fields = {**FIELDS, "runs_dir": folder / "runs"}
    chosen = ["--methods", *methods, "--epochs", *map(str, epochs), "--images", str(images)]
    output = ["--output", str(folder / "explorer.html")]
    return [
        "--preset",
        "smoke",
        *(word for name, value in fields.items() for word in ("-p", name, str(value))),
        *chosen,
        *output,
        *arguments,
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page of two hardly trained networks, made by the command; its data, images and words."""
    folder = tmp_path_factory.mktemp("explorer")
    assert explorer.main(command(folder, "--train")) == 0
    page = (folder / "explorer.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    picture = base64.b64decode(re.search(r"url\(data:image/png;base64,([^)]+)\)", page)[1])
    config = load_preset("smoke", **FIELDS, runs_dir=str(folder / "runs"), keep_epochs=True)
    return SimpleNamespace(
        folder=folder, page=page, data=data, pixels=np.asarray(Image.open(io.BytesIO(picture))), config=config,
        words=(folder / "explorer.md").read_text(encoding="utf-8"), test=load_data(config).test[:IMAGES],
    )  # fmt: skip


def network(built, stage):
    config = built.config.replace(method=stage["method"])
    return Run(built.folder / "runs" / config.run_name(), config).model(stage["epoch"]).eval()


def test_hardest_positives_are_those_of_a_slow_loop(random):
    vectors = random.normal(size=(40, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.concatenate([random.integers(0, 4, 36), [7, 8, 8, 9]])  # classes of one and of two rows too
    for i, found in enumerate(explorer.hardest_positives(vectors, labels)):
        others = [j for j in range(40) if j != i and labels[j] == labels[i]]
        assert found.tolist() == sorted(others, key=lambda j: vectors[i] @ vectors[j])[:3]


def test_a_map_is_turned_and_mirrored_onto_another_one_and_keeps_its_distances(random):
    stage = SimpleNamespace(vectors=random.normal(size=(60, 5)))
    (alone,) = explorer.maps_of([stage], seed=0)
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])
    (turned,) = explorer.maps_of([stage], seed=0, like=alone @ turn)
    np.testing.assert_allclose(turned, alone @ turn, atol=1e-3)


def test_the_maps_of_one_training_resemble_one_another(random):
    centres = 4 * random.normal(size=(5, 8))
    vectors = np.repeat(centres, 12, axis=0) + random.normal(size=(60, 8))
    before, after = explorer.maps_of([SimpleNamespace(vectors=vectors + 0.01), SimpleNamespace(vectors=vectors)], 0)
    apart = np.linalg.norm(before - after, axis=1).mean()
    assert apart < 0.2 * np.linalg.norm(before - random.permutation(after), axis=1).mean()


def test_each_stage_has_what_its_network_says_of_each_image(built):
    stages = built.data["stages"]
    assert [(s["method"], s["epoch"]) for s in stages] == [(m, e) for m in METHODS for e in EPOCHS]
    assert built.data["labels"] == built.test.labels.tolist()
    for stage in stages:
        for name in ("points", "predicted", "percent", "hardest", "cosine"):
            assert len(stage[name]) == 2 * IMAGES, name
        assert all(0 <= place <= 1000 for point in stage["points"] for place in point)
        with torch.no_grad():
            confidence, predicted = network(built, stage)(built.test.inputs()).softmax(1).max(1)
        assert stage["predicted"][:IMAGES] == predicted.tolist()
        np.testing.assert_allclose(stage["percent"][:IMAGES], 100 * confidence.numpy(), atol=0.51)


def test_hardest_positives_and_cosines_are_those_of_the_features(built):
    for stage in built.data["stages"]:
        features = embeddings.extract(network(built, stage), built.test.inputs())
        for i, (rows, cosines) in enumerate(zip(stage["hardest"], stage["cosine"], strict=True)):
            assert len(rows) == min(3, 2 * built.data["labels"].count(built.data["labels"][i % IMAGES]) - 1)
            assert i not in rows
            assert {built.data["labels"][j % IMAGES] for j in rows} == {built.data["labels"][i % IMAGES]}
            assert cosines == sorted(cosines)
            for j, cosine in zip(rows, cosines, strict=True):
                if max(i, j) < IMAGES:
                    assert cosine == pytest.approx(features[i] @ features[j], abs=0.006)


def test_the_picture_has_the_images_and_their_twins_within_epsilon(built):
    side = built.test.images.shape[2]
    rows = built.pixels.reshape(-1, side, IMAGES, side).transpose(0, 2, 1, 3)
    assert len(rows) == 1 + len(built.data["stages"])
    assert (rows[0] == built.test.images[:, 0].numpy()).all()
    for row in rows[1:]:
        moved = np.abs(row.astype(int) - rows[0]).max((1, 2))
        assert (moved > 0).all()
        assert moved.max() <= 255 * built.config.epsilon + 0.5


def test_the_words_have_the_numbers_of_every_network(built):
    table = [line.strip("| ").split(" | ") for line in built.words.splitlines() if line.startswith("|")][2:]
    assert len(table) == len(built.data["stages"])
    for (name, epoch, clean, attacked, *_), stage in zip(table, built.data["stages"], strict=True):
        right = np.equal(stage["predicted"], built.data["labels"] * 2).reshape(2, -1).mean(1)
        assert [name, epoch] == [built.data["names"][stage["method"]], str(stage["epoch"])]
        assert [clean.split()[0], attacked.split()[0]] == [f"{share:.0%}" for share in right]
    knn = [(row[0], row[4].split()[0], row[5].split()[0], row[6]) for row in table if row[1] == "2"]
    assert len(knn) == len(METHODS)
    for name, clean, attacked, r in knn:
        (sentence,) = [line for line in built.words.splitlines() if line.startswith(f"{name}, epoch 2:")]
        assert f"{clean} of the clean features" in sentence
        assert f"{attacked} of the attacked ones" in sentence
        assert f"a median of {r} times" in sentence
    attack = f"epsilon {built.config.epsilon:g}, {built.config.eval_steps} steps of {built.config.eval_step_size:g}"
    assert attack in built.words
    assert attack in built.page


def test_the_page_needs_no_other_file(built):
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", built.page)
    assert not re.findall(r'(?:src|href)="(?!data:)', built.page)
    assert not re.findall(r"url\((?!data:)", built.page)
    assert not re.findall(r"@import|%(?:data|sprite|text|table)%", built.page)
    assert len(built.page.encode()) < explorer.LIMIT == 5_000_000


def test_a_page_that_is_too_large_is_refused(built, monkeypatch, capsys):
    monkeypatch.setattr(explorer, "LIMIT", 50_000)
    assert explorer.main(command(built.folder)) == 2
    assert re.search(r"error: the page has [\d,]+ bytes: allowed are 50,000; take fewer", capsys.readouterr().err)
    assert (built.folder / "explorer.html").read_text(encoding="utf-8") == built.page


@pytest.fixture
def idle(monkeypatch):
    """Nothing is trained or attacked."""
    monkeypatch.setattr(explorer, "look", lambda *_: pytest.fail("a network was attacked"))
    monkeypatch.setattr(explorer, "fit", lambda *_, **__: pytest.fail("a network was trained"))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"methods": ["pgd"]}, r"methods=\['pgd'\]: allowed is one or more of standard, pgd_at"),
        ({"methods": ["anchor", "anchor"]}, r"methods=\['anchor', 'anchor'\]: .* each once"),
        ({"epochs": [0, 3]}, r"epochs=\[3\]: allowed is 0 to 2"),
        ({"images": 19}, r"images=19: allowed is 20 to 1000"),
        ({"images": 1001}, r"images=1001: allowed is 20 to 1000"),
    ],
)
def test_bad_input_is_refused_before_any_work(idle, capsys, tmp_path, wanted, message):
    assert explorer.main(command(tmp_path, "--train", **wanted)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [*tmp_path.iterdir()] == []


def test_a_method_without_a_run_and_an_epoch_that_is_lost_are_named(built, idle, capsys, tmp_path):
    shutil.copytree(built.folder / "runs", tmp_path / "runs")
    next((tmp_path / "runs").glob("*-anchor-*/epoch-001.safetensors")).unlink()
    assert explorer.main(command(tmp_path, methods=["anchor", "mart"])) == 2
    missing = r"methods=\['anchor', 'mart'\]: 'mart' has no finished run in '.*mnist5k-mart-.*-epochs'; train it with"
    assert re.search(missing, capsys.readouterr().err)
    assert explorer.main(command(tmp_path, epochs=[0, 1, 2])) == 2
    lost = r"epochs=\[0, 1, 2\]: '.*-anchor-.*' has no weights of \[1\]"
    assert re.search(lost, capsys.readouterr().err)
    assert not (tmp_path / "explorer.html").exists()


def test_epochs_are_spread_from_the_first_to_the_last():
    assert explorer.spread_epochs(1) == [0, 1]
    assert explorer.spread_epochs(4) == [0, 1, 2, 3, 4]
    assert explorer.spread_epochs(40) == [0, 10, 20, 30, 40]


def test_classes_have_the_colours_of_lesson_07():
    light = re.search(r":root \{(.*?)\}", explorer.TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert tuple(re.findall(r"--k\d: (#\w+);", light)) == CLASS_COLORS


# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
lacking = [] if find_spec("playwright") else ["playwright"]
lacking += [] if CHROMIUM else ["chromium"]
in_browser = pytest.mark.skipif(bool(lacking), reason=f"missing: {', '.join(lacking)}")
SIZES = {"desktop": {"width": 1300, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser, built, request):
    """The page, opened from its file; fails if the console says anything or another file is asked for."""
    phone = getattr(request, "param", "desktop") == "phone"
    opened = browser.new_page(viewport=SIZES["phone" if phone else "desktop"], has_touch=phone)
    opened.set_default_timeout(60_000)
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda wanted: asked.append(wanted.url))
    opened.goto((built.folder / "explorer.html").as_uri())
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [(built.folder / "explorer.html").as_uri()]
    opened.close()


def stage_of(built, method, epoch):
    return next(s for s in built.data["stages"] if (s["method"], s["epoch"]) == (method, epoch))


def check_card(tab, built, stage, i):
    """The panel shows point i: both images, both predictions, and the hardest positives of its form."""
    classes, image = built.data["classes"], i % IMAGES
    card = tab.locator("#card")
    assert card.locator("h2").inner_text() == f"Test image {image}: {classes[built.data['labels'][image]]}"
    predictions = [f"{classes[stage['predicted'][j]]} ({stage['percent'][j]}%)" for j in (image, image + IMAGES)]
    assert card.locator("figcaption b").all_inner_texts() == predictions
    assert card.locator("figure.chosen").count() == 1
    assert ("attacked" in card.locator("figure.chosen figcaption").inner_text()) == (i >= IMAGES)
    hardest = card.locator("li button").all_inner_texts()
    assert len(hardest) == len(stage["hardest"][i])
    for text, j, cosine in zip(hardest, stage["hardest"][i], stage["cosine"][i], strict=True):
        assert f"cosine {cosine:.2f}" in text
        assert "its own twin" in text if j % IMAGES == image else f"image {j % IMAGES}\n" in text
        assert ("attacked, " in text) == (j >= IMAGES)


def places(tab):
    """Of the points, on the screen."""
    return tab.evaluate(
        "[...document.querySelectorAll('#map [role=button] .mark')].map((mark) => {"
        "const box = mark.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]})"
    )


def lonely_points(tab, count):
    """Points that no other one comes near, so that a pointer means just them."""
    at = np.array(places(tab))
    apart = np.linalg.norm(at[:, None] - at, axis=2) + 1e9 * np.eye(len(at))
    return apart.min(1).argsort()[::-1][:count].tolist()


@in_browser
def test_pointing_at_a_point_shows_its_images_predictions_and_hardest_positives(tab, built):
    for i in lonely_points(tab, 4):
        tab.mouse.move(*places(tab)[i])
        check_card(tab, built, stage_of(built, "pgd_at", 2), i)
        assert tab.locator("#map .overlay line.hard").count() == len(stage_of(built, "pgd_at", 2)["hardest"][i])


@in_browser
def test_the_tiles_show_the_pixels_of_the_chosen_image(tab, built):
    i = lonely_points(tab, 1)[0]
    tab.mouse.move(*places(tab)[i])
    side = built.test.images.shape[2]
    for figure, row in (("figure >> nth=0", 0), ("figure >> nth=1", 2)):  # row 2: the second stage, epoch 2 of pgd_at
        shot = Image.open(io.BytesIO(tab.locator(f"#card {figure} >> .tile").screenshot())).convert("L")
        seen = np.asarray(shot.resize((side, side), Image.Resampling.BOX), dtype=float)
        column = (i % IMAGES) * side
        wanted = built.pixels[row * side : (row + 1) * side, column : column + side].astype(float)
        others = built.pixels[row * side : (row + 1) * side].reshape(side, IMAGES, side).astype(float)
        distances = np.abs(others - seen[:, None]).mean((0, 2))
        assert distances.argmin() == i % IMAGES
        assert np.abs(wanted - seen).mean() < 12


@in_browser
def test_a_held_point_stays_until_it_is_let_go(tab, built):
    first, second = lonely_points(tab, 2)
    stage = stage_of(built, "pgd_at", 2)
    tab.mouse.click(*places(tab)[first])
    tab.mouse.move(*places(tab)[second])
    check_card(tab, built, stage, first)
    tab.keyboard.press("Escape")
    tab.mouse.move(*places(tab)[first])
    tab.mouse.move(*places(tab)[second])
    check_card(tab, built, stage, second)


@in_browser
def test_method_and_epoch_move_the_points_and_change_the_verdict(tab, built):
    i = lonely_points(tab, 1)[0]
    tab.mouse.click(*places(tab)[i])
    seen = [places(tab)]
    for field, value, stage in (("method", "anchor", ("anchor", 2)), ("epoch", "0", ("anchor", 0))):
        tab.locator(f"input[name={field}][value='{value}'] + span").click()
        check_card(tab, built, stage_of(built, *stage), i)
        assert f"at epoch {stage[1]}" in tab.locator("#note").inner_text()
        assert all(np.abs(np.subtract(places(tab), before)).max() > 5 for before in seen)
        seen.append(places(tab))


@in_browser
def test_all_points_are_reached_by_keyboard(tab, built):
    stage = stage_of(built, "pgd_at", 2)
    focused = "[...document.querySelectorAll('#map [role=button]')].indexOf(document.activeElement)"
    tab.locator("#moves").focus()
    tab.keyboard.press("Tab")
    start = tab.evaluate(focused)
    assert start >= 0
    reached = set()
    for _ in range(IMAGES):
        for key in ("ArrowDown", "ArrowRight", "ArrowUp"):
            reached.add(tab.evaluate(focused))
            tab.keyboard.press(key)
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowRight")
    assert reached == set(range(2 * IMAGES))
    i = tab.evaluate(focused)
    check_card(tab, built, stage, i)
    named = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert named.startswith(f"Test image {i % IMAGES}, {built.data['labels'][i % IMAGES]}, ")
    tab.keyboard.press("1")
    check_card(tab, built, stage, stage["hardest"][i][0])
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")  # the panel's first button: the hardest positive of that one
    check_card(tab, built, stage, stage["hardest"][stage["hardest"][i][0]][0])


@in_browser
@pytest.mark.parametrize("tab", ["phone"], indirect=True)
def test_on_a_phone_a_tap_chooses_and_nothing_is_cut_off(tab, built):
    assert tab.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"]["width"]
    i = lonely_points(tab, 1)[0]
    tab.touchscreen.tap(*places(tab)[i])
    check_card(tab, built, stage_of(built, "pgd_at", 2), i)
