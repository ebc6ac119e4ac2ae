"""Downloads of the CIFAR archives, against a local server with every bad habit that servers have."""

import contextlib
import dataclasses
import hashlib
import io
import os
import pickle
import re
import socket
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pooch
import pytest
from torchvision import datasets

from anchor_utils import downloads
from anchor_utils.data import load_dataset

KINDS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


# A server. The first folder of a URL says how it answers.


ENDLESS = 50_000_000  # bytes, far more than fit between server and client


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.log.append(self)
        self.sent = 0
        content = self.server.files[self.path.rpartition("/")[2]]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has read enough
            HABITS[self.path.split("/")[1]](self, content)

    def answer(self, content, *, knows_range=True, status=None, **headers):
        """Send the head, and return what is to be sent after it."""
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1]) if knows_range else 0
        self.send_response(status or (206 if start else 200))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"Content_Length": len(content) - start, **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        return content[start:]

    def send(self, content):
        self.sent += len(content)  # before the client can have read it
        self.wfile.write(content)
        self.wfile.flush()


def good(handler, content):
    handler.send(handler.answer(content))


def slow(handler, content):
    rest = handler.answer(content)
    for start in range(0, len(rest), 2000):
        handler.send(rest[start : start + 2000])
        time.sleep(0.02)


def cut_once(handler, content):
    rest = handler.answer(content)
    first = sum(other.path == handler.path for other in handler.server.log) == 1
    handler.send(rest[: len(rest) // 2] if first else rest)


def cut_always(handler, content):
    handler.send(handler.answer(content)[:3000])


def no_range(handler, content):
    handler.send(handler.answer(content, knows_range=False))


def wrong_bytes(handler, content):
    handler.send(bytes(byte ^ 1 for byte in handler.answer(content)))


def announces_more(handler, content):
    handler.send(handler.answer(content, knows_range=False, Content_Length=len(content) + 1000))


def announces_less(handler, content):
    handler.send(handler.answer(content, knows_range=False, Content_Length=len(content) - 1000)[:-1000])


def no_length(handler, content):
    handler.send(handler.answer(content, Content_Length=None))


def no_length_cut(handler, content):
    handler.send(handler.answer(content, Content_Length=None)[:3000])


def no_end(handler, content):
    handler.answer(content, knows_range=False, Content_Length=None)
    while handler.sent < ENDLESS:
        handler.send(bytes(10_000))


def calls_it_an_encoding(handler, content):
    handler.send(handler.answer(content, Content_Encoding="gzip"))


def page(handler, _):
    handler.send(handler.answer(b"<html>Please log in.</html>", knows_range=False, Content_Type="text/html"))


def missing(handler, _):
    handler.send_error(404)


def broken(handler, _):
    handler.send_error(500)


def hangs(handler, content):
    handler.answer(content)
    handler.server.closing.wait(5)


HABITS = {
    habit.__name__: habit
    for habit in [
        *(good, slow, cut_once, cut_always, no_range, wrong_bytes, announces_more, announces_less),
        *(no_length, no_length_cut, no_end, calls_it_an_encoding, page, missing, broken, hangs),
    ]
}


# Two tiny archives, and the data sets in them.


def packed(files):
    """A .tar.gz of name -> content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def batches(kind):
    """Name -> content of the files in one archive: two images a batch. Random pixels do not compress."""
    random = np.random.default_rng(0)
    files = {}
    for number, (name, _) in enumerate(kind.train_list + kind.test_list):
        labels = {"labels" if kind is datasets.CIFAR10 else "fine_labels": [number, number + 1]}
        files[name] = pickle.dumps({"data": random.integers(0, 256, (2, 3072), dtype=np.uint8), **labels})
    files[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(10)]})
    return files


def with_md5(entries, files):
    return [[name, hashlib.md5(files[name]).hexdigest()] for name, _ in entries]


@pytest.fixture
def server(monkeypatch):
    """The server, with tiny archives instead of the real ones. It is the original server, too, and well-behaved."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.log, server.files, server.contents = [], {}, {}
        server.closing = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        for name, kind in KINDS.items():
            files = server.contents[name] = batches(kind)
            content = packed({f"{kind.base_folder}/{file}": files[file] for file in files})
            server.files[kind.filename] = content
            tiny = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "mirrors": ()}
            monkeypatch.setitem(downloads.ARCHIVES, name, dataclasses.replace(downloads.ARCHIVES[name], **tiny))
            for entries in ("train_list", "test_list"):
                monkeypatch.setattr(kind, entries, with_md5(getattr(kind, entries), files))
            md5 = hashlib.md5(files[kind.meta["filename"]]).hexdigest()
            monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
        monkeypatch.setattr(downloads, "ORIGINAL", f"{server.url}/good")
        monkeypatch.setattr(downloads, "TIMEOUT", (0.5, 0.3))
        monkeypatch.setattr(downloads, "CHUNK", 1000)
        monkeypatch.delenv("ANCHOR_MIRRORS", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def mirrors(server, monkeypatch):
    """Set the mirrors of CIFAR-10, by habit or URL."""

    def choose(*habits):
        bases = tuple(habit if "//" in habit else f"{server.url}/{habit}" for habit in habits)
        archive = dataclasses.replace(downloads.ARCHIVES["cifar10"], mirrors=bases)
        monkeypatch.setitem(downloads.ARCHIVES, "cifar10", archive)
        return bases

    return choose


@pytest.fixture
def no_network(monkeypatch):
    """The server is still there, but no URL leads to it."""
    monkeypatch.setattr(downloads, "ORIGINAL", dead_server())


def dead_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def archive(server):
    """The bytes of the archive of CIFAR-10."""
    return server.files["cifar-10-python.tar.gz"]


def part(root):
    return root / ".cifar-10-python.tar.gz.part"


def asked(server):
    """The requests so far: habit, Range, bytes sent."""
    return [(request.path.split("/")[1], request.headers.get("Range"), request.sent) for request in server.log]


def check(root, server, name="cifar10"):
    """Load the data set, compare it to what is in the archive, and see that only whole files are left."""
    loaded = load_dataset(name, root)
    files = {file: pickle.loads(content) for file, content in server.contents[name].items()}
    kind = KINDS[name]
    for split, entries in ((loaded.train, kind.train_list), (loaded.test, kind.test_list)):
        pixels = np.concatenate([files[file]["data"] for file, _ in entries]).reshape(-1, 3, 32, 32)
        assert np.array_equal(split.images.numpy(), pixels)
        labels = [files[file].get("labels") or files[file]["fine_labels"] for file, _ in entries]
        assert split.labels.tolist() == np.concatenate(labels).tolist()
    assert loaded.classes == tuple(f"class {i}" for i in range(10))
    assert {file.name for file in root.iterdir()} - {".lock"} == {kind.filename, kind.base_folder}
    assert (root / kind.filename).read_bytes() == server.files[kind.filename]


# When all is well


@pytest.mark.parametrize("name", KINDS)
def test_download_is_read_and_kept(name, server, tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    root = tmp_path / "new" / "folder"
    check(root, server, name)
    output = capsys.readouterr()
    assert f"{KINDS[name].filename}: 100%" in output.out
    assert output.err == ""
    assert caplog.records == []
    assert server.log[0].headers["Accept-Encoding"] == "identity"
    check(root, server, name)
    assert asked(server) == [("good", None, len(server.files[KINDS[name].filename]))]  # and not once more


def test_real_archives_are_those_of_torchvision():
    for name, kind in KINDS.items():
        archive = downloads.ARCHIVES[name]
        assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
        assert len(archive.mirrors) >= 2
        assert downloads.urls(archive)[-1] == kind.url
        assert all(re.fullmatch(rf"https://.*[^/]/{kind.filename}", url) for url in downloads.urls(archive))


def test_archive_placed_by_hand_is_used_without_network(server, no_network, archive, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive)
    part(tmp_path).write_bytes(b"of a download that was given up")
    check(tmp_path, server)
    assert asked(server) == []


def test_extracted_files_alone_are_enough(server, no_network, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in server.contents["cifar10"].items():
        (folder / name).write_bytes(content)
    assert len(load_dataset("cifar10", tmp_path).train) == 10
    assert [file.name for file in tmp_path.iterdir()] == [folder.name]


def test_own_mirrors_come_first(server, mirrors, tmp_path, monkeypatch):
    mirrors("broken")
    monkeypatch.setenv("ANCHOR_MIRRORS", f" {server.url}/missing/deep/  {server.url}/page")
    check(tmp_path, server)
    assert [habit for habit, *_ in asked(server)] == ["missing", "page", "broken", "good"]
    assert server.log[0].path == "/missing/deep/cifar-10-python.tar.gz"


# Servers and networks


@pytest.mark.parametrize("habit", ["slow", "no_length", "calls_it_an_encoding"])
def test_unusual_server_works(habit, server, mirrors, archive, tmp_path):
    mirrors(habit)
    check(tmp_path, server)
    assert asked(server) == [(habit, None, len(archive))]


@pytest.mark.parametrize("habit", ["missing", "broken", "page", "hangs", "announces_more", "announces_less", "dead"])
@pytest.mark.parametrize("begun", [False, True])
def test_next_mirror_is_asked_and_what_is_there_is_kept(habit, begun, server, mirrors, archive, tmp_path):
    mirrors(dead_server() if habit == "dead" else habit, "good")
    if begun:
        part(tmp_path).write_bytes(archive[:5000])
    check(tmp_path, server)
    *before, last = asked(server)
    assert last == (("good", "bytes=5000-", len(archive) - 5000) if begun else ("good", None, len(archive)))
    assert [name for name, *_ in before] == ([] if habit == "dead" else [habit])


def test_after_a_cut_only_the_rest_is_sent(server, mirrors, archive, tmp_path):
    mirrors("cut_once")
    check(tmp_path, server)
    (_, first, sent), (habit, asked_for, rest) = asked(server)
    assert (first, habit) == (None, "cut_once")
    start = int(asked_for.removeprefix("bytes=").removesuffix("-"))
    assert sent - downloads.CHUNK < start <= sent == len(archive) // 2
    assert rest == len(archive) - start


@pytest.mark.parametrize("habit", ["cut_always", "no_length_cut"])
def test_many_cuts_are_survived_and_other_mirrors_go_on_from_there(habit, server, mirrors, archive, tmp_path):
    mirrors(habit, "good")
    check(tmp_path, server)
    *cuts, (last, asked_for, rest) = asked(server)
    assert [name for name, *_ in cuts] == [habit] * downloads.TRIES
    assert last == "good"
    assert rest == len(archive) - int(asked_for[6:-1]) < len(archive) / 2


def test_server_without_range_sends_all_again(server, mirrors, archive, tmp_path):
    mirrors("no_range")
    part(tmp_path).write_bytes(archive[:5000])
    check(tmp_path, server)
    assert asked(server) == [("no_range", "bytes=5000-", len(archive))]


@pytest.mark.parametrize("extra", [-5000, 0, 5000])
def test_stale_part_is_thrown_away(extra, server, archive, tmp_path):
    part(tmp_path).write_bytes(bytes(len(archive) + extra))
    check(tmp_path, server)
    assert asked(server)[-1] == ("good", None, len(archive))
    assert len(server.log) == (2 if extra < 0 else 1)


def test_complete_part_needs_no_network(server, no_network, archive, tmp_path):
    part(tmp_path).write_bytes(archive)
    check(tmp_path, server)


def test_wrong_bytes_are_noticed_and_never_get_the_name(server, mirrors, archive, tmp_path, monkeypatch):
    mirrors("wrong_bytes", "good")
    there = []
    monkeypatch.setitem(HABITS, "good", lambda *a: (there.extend(f.name for f in tmp_path.iterdir()), good(*a)))
    check(tmp_path, server)
    assert asked(server) == [("wrong_bytes", None, len(archive)), ("good", None, len(archive))]
    assert "cifar-10-python.tar.gz" not in there
    assert part(tmp_path).name not in there


def test_endless_answer_is_given_up(server, mirrors, archive, tmp_path):
    mirrors("no_end", "good")
    check(tmp_path, server)
    assert [habit for habit, *_ in asked(server)] == ["no_end", "good"]
    assert server.log[0].sent < ENDLESS


def test_interrupt_keeps_what_is_there(server, archive, tmp_path, monkeypatch):
    class Interrupted(downloads.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n > len(archive) // 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar10", tmp_path)
    assert {file.name for file in tmp_path.iterdir()} - {".lock"} == {part(tmp_path).name}
    size = part(tmp_path).stat().st_size
    assert len(archive) // 2 < size < len(archive)
    assert part(tmp_path).read_bytes() == archive[:size]
    check(tmp_path, server)
    assert asked(server)[1] == ("good", f"bytes={size}-", len(archive) - size)


def test_of_several_at_once_one_downloads(server, mirrors, tmp_path):
    mirrors("slow")
    threads = [threading.Thread(target=load_dataset, args=("cifar10", tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.log) == 1
    check(tmp_path, server)


# Damage on disk


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "longer"])
def test_corrupt_archive_is_named_and_replaced(damage, server, archive, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(
        {
            "empty": b"",
            "truncated": archive[:-100],
            "flipped": archive[:5000] + bytes([archive[5000] ^ 1]) + archive[5001:],
            "longer": archive + b"\n",
        }[damage]
    )
    size = path.stat().st_size
    with pytest.warns(UserWarning, match=rf"cifar-10-python.tar.gz' is corrupt \({size} of {len(archive)} bytes"):
        check(tmp_path, server)
    assert asked(server) == [("good", None, len(archive))]


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
@pytest.mark.parametrize("has_archive", [True, False])
def test_corrupt_extracted_file_is_named_and_replaced(name, damage, has_archive, server, archive, tmp_path):
    load_dataset("cifar10", tmp_path)
    file = tmp_path / "cifar-10-batches-py" / name
    content = file.read_bytes()
    mine = file.with_name("mine.txt")
    mine.write_text("stays")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "truncated" else content[:-9] + bytes(9))
    if not has_archive:
        (tmp_path / "cifar-10-python.tar.gz").unlink()
    with pytest.warns(UserWarning, match=rf"{name}': missing or corrupt") as caught:
        check(tmp_path, server)
    assert "data_batch_1" not in str(caught[0].message)  # only what is broken
    assert len(server.log) == (1 if has_archive else 2)
    assert mine.read_text() == "stays"


def test_interrupted_extraction_leaves_whole_files_and_goes_on(server, tmp_path, monkeypatch):
    write, folder = downloads.write_atomically, tmp_path / "cifar-10-batches-py"

    def interrupted(path, fill):
        def some(file):
            file.write_bytes(b"half")
            raise KeyboardInterrupt

        write(path, some if path.name == "data_batch_3" else fill)

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar10", tmp_path)
    there = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert there == {name: server.contents["cifar10"][name] for name in ("data_batch_1", "data_batch_2")}
    with pytest.warns(UserWarning, match=r"data_batch_3.*: missing or corrupt, extracting"):
        check(tmp_path, server)
    assert len(server.log) == 1


def member(name, kind=tarfile.REGTYPE, link="", content=b"evil"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info, io.BytesIO(content)


@pytest.mark.parametrize(
    "evil",
    [
        *[
            [member(name)]
            for name in ("../../out", "../folder2/wanted", "/{tmp}/out", "folder/../../out", "folder/more")
        ],
        [member("folder/wanted", tarfile.SYMTYPE, "{tmp}/outside")],
        [member("folder/wanted", tarfile.LNKTYPE, "{tmp}/outside")],
        [member("folder", tarfile.SYMTYPE, "{tmp}"), member("folder/outside")],
        [member("folder/wanted", tarfile.SYMTYPE, "{tmp}/outside"), member("folder/wanted")],
        *[[member("folder/wanted", kind)] for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)],
    ],
)
def test_only_wanted_files_leave_an_archive_and_nothing_else_does(evil, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"mine")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        for info, content in evil:
            info = info.replace(
                name=info.name.format(tmp=tmp_path), linkname=info.linkname.format(tmp=tmp_path), deep=False
            )
            archive.addfile(info, content if info.size else None)
    downloads._extract(tmp_path / "evil.tar.gz", root / "folder", ["wanted"])
    assert {path.name for path in tmp_path.iterdir()} == {"root", "outside", "evil.tar.gz"}
    assert (tmp_path / "outside").read_bytes() == b"mine"
    written = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
    assert set(written) <= {root / "folder" / "wanted"}
    assert not any(path.is_symlink() for path in written)


@pytest.mark.parametrize("place", ["wanted", "elsewhere"])
def test_archive_that_would_fill_the_disk_is_refused_before_that(place, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "UNPACKED", 10**6)
    monkeypatch.setattr(downloads, "write_atomically", lambda *_: pytest.fail("written"))
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(packed({f"folder/{place}": bytes(10**6)}))
    assert path.stat().st_size < 10**4
    with pytest.raises(OSError, match=r"bomb.tar.gz' unpacks to more than 1,000,000 bytes"):
        downloads._extract(path, tmp_path / "folder", ["wanted"])
    assert [file.name for file in tmp_path.iterdir()] == ["bomb.tar.gz"]


# No network


def test_one_error_says_what_was_tried_and_what_to_do(server, no_network, mirrors, archive, tmp_path):
    bases = mirrors("missing", "wrong_bytes", "page", "cut_always", "hangs", dead_server())
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("cifar10", tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "name='cifar10': cifar-10-python.tar.gz could not be downloaded. Tried:"
    reasons = ["404", "SHA256", "27 bytes instead of", "cut off|IncompleteRead", "timed out", "refused", "refused"]
    for base, reason, line in zip([*bases, downloads.ORIGINAL], reasons, lines[1:-1], strict=True):
        assert line.startswith(f"  {base}/cifar-10-python.tar.gz: ")
        assert re.search(reason, line)
    what_to_do = [f"{downloads.ORIGINAL}/cifar-10-python.tar.gz by hand", str(len(archive)), repr(str(tmp_path))]
    for text in [*what_to_do, hashlib.sha256(archive).hexdigest(), "ANCHOR_MIRRORS", "mnist5k"]:
        assert text in lines[-1]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert {file.name for file in tmp_path.iterdir()} <= {".lock", part(tmp_path).name}


def test_corrupt_archive_without_network_is_named(server, no_network, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"<html>")
    with (
        pytest.warns(UserWarning, match=r"is corrupt \(6 of "),
        pytest.raises(FileNotFoundError, match="could not be downloaded"),
    ):
        load_dataset("cifar10", tmp_path)
    assert path.read_bytes() == b"<html>"


def test_full_disk_is_no_reason_to_try_other_servers(server, mirrors, tmp_path, monkeypatch):
    mirrors("good", "good")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads.tqdm, "update", full)
    with pytest.raises(OSError, match="No space left"):
        load_dataset("cifar10", tmp_path)
    assert len(server.log) == 1


# Pickles


class Attack:
    """Unpickled, it calls `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_arrays_in_plain_containers_are_unpickled(tmp_path):
    content = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "names": ("a", "b")}
    (tmp_path / "batch").write_bytes(pickle.dumps(content))
    again = downloads.unpickle(tmp_path / "batch")
    assert np.array_equal(again.pop("data"), content.pop("data"))
    assert again == content


def test_an_array_pickled_by_python_2_is_read(tmp_path):
    """As in the real archives: text is a string of bytes, and the module has the name it had then."""
    (tmp_path / "batch").write_bytes(
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbs."
    )
    array = downloads.unpickle(tmp_path / "batch")["data"]
    assert array.dtype == np.uint8
    assert array.tolist() == [[0, 1, 2], [253, 254, 255]]


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda file: Attack(os.mkdir, str(file)), f"{os.name}.mkdir"),
        (lambda file: Attack(open, str(file), "w"), "_?io.open"),
        (lambda file: Attack(eval, f"open({str(file)!r}, 'w')"), "builtins.eval"),
        (lambda file: Attack(np.save, str(file), 1), r"numpy.*save"),
        (lambda file: {"data": [Attack(os.system, f"touch {file}")]}, f"{os.name}.system"),
    ],
)
def test_pickle_that_would_run_something_is_refused(tmp_path, attack, named):
    (tmp_path / "batch").write_bytes(pickle.dumps(attack(tmp_path / "done")))
    with pytest.raises(ValueError, match=rf"a pickle asks for {named}: allowed are numpy arrays"):
        downloads.unpickle(tmp_path / "batch")
    assert not (tmp_path / "done").exists()
