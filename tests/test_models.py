"""The network against torchvision's, and what happens to it on its way to a file and back."""

import copy
import json
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from anchor_utils import models
from anchor_utils.models import AnchorNet, fold_batchnorm, load, save


def network(seed: int = 0, **arguments) -> AnchorNet:
    torch.manual_seed(seed)
    return AnchorNet(**({"width": 4, "projection_dim": 8} | arguments))


def make_batchnorm_matter(model: nn.Module) -> None:
    """Statistics from a few batches, and scales and shifts that are not 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, 3, 16, 16))


# --- architecture ----------------------------------------------------------------------------------------------------


def torchvision_twin(model: AnchorNet) -> nn.Module:
    """torchvision's ResNet-18 with a 3x3 stem and no max-pooling, with the weights of `model`."""
    twin = torchvision.models.resnet18(num_classes=10)
    stride = model.architecture["stem_stride"]
    twin.conv1, twin.maxpool = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False), nn.Identity()
    state = {}
    for name, value in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "stem":
            state[rest.replace("0.", "conv1.", 1) if rest.startswith("0.") else rest.replace("1.", "bn1.", 1)] = value
        elif part == "stages":
            number, _, rest = rest.partition(".")
            state[f"layer{int(number) + 1}.{rest}"] = value
        elif part == "classifier":
            state[f"fc.{rest}"] = value
    twin.load_state_dict(state)  # strict: every one of torchvision's weights is there
    return twin


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_width_64_is_torchvisions_resnet18_for_small_images(train, stem_stride):
    """Also where a shortcut takes every second pixel and theirs is a convolution of stride 2."""
    model = network(width=64, projection_dim=0, stem_stride=stem_stride)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    twin = torchvision_twin(model)
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.train(train)(images), twin.train(train)(images), atol=1e-4, rtol=1e-4)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts():
    assert parameters(AnchorNet(projection_dim=0)) == 11_173_962  # ResNet-18 for CIFAR-10, as published
    head = 512 * 512 + 512 + 512 * 128 + 128
    assert parameters(AnchorNet()) == 11_173_962 + head
    assert parameters(AnchorNet(num_classes=100, projection_dim=0)) == 11_173_962 + 90 * 513
    assert parameters(AnchorNet(in_channels=1, projection_dim=0)) == 11_173_962 - 2 * 64 * 9


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_of_features_embeddings_and_logits(channels, size):
    model = network(in_channels=channels, num_classes=7, width=3, projection_dim=5)
    images = torch.rand(4, channels, size, size)
    features = model.encode(images)
    assert model.feature_dim == 24
    assert features.shape == (4, 24)
    assert model.project(features).shape == (4, 5)
    assert model(images).shape == (4, 7)
    torch.testing.assert_close(model.classifier(features), model(images))


def test_features_come_from_a_map_of_4x4_for_images_of_32x32():
    """Only three of the four stages halve the map; the stem and a max-pooling that is not there do not."""
    model, seen = network(), []
    model.stages.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = model.encode(torch.rand(2, 3, 32, 32))
    assert seen[0].shape == (2, 32, 4, 4)
    torch.testing.assert_close(features, seen[0].mean((2, 3)))


def test_normalisation_is_inside():
    """A network with mean and std sees what a network without them sees on normalised images."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    inside, outside = network(mean=mean, std=std).eval(), network().eval()
    images = torch.rand(4, 3, 16, 16)
    normalised = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(inside(images), outside(normalised))
    assert not torch.allclose(inside(images), outside(images), atol=1e-3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bf16", "fp16"])
def test_projections_have_unit_norm(dtype):
    model = network()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        embeddings = model.project(100 * model.encode(torch.rand(4, 3, 16, 16)))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))


def test_without_a_projection_head_there_are_logits_but_no_embeddings():
    model = network(projection_dim=0)
    features = model.encode(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="projection_dim=0"):
        model.project(features)
    assert not any("projection" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_classes": 0}, "num_classes=0: allowed is 1 or more"),
        ({"width": 0}, "width=0: allowed is 1 or more"),
        ({"in_channels": 0}, "in_channels=0: allowed is 1 or more"),
        ({"projection_dim": -1}, "projection_dim=-1: allowed is 0"),
        ({"mean": (0.5,)}, r"mean=\[0.5\].*in_channels=3"),
        ({"std": (0.5, 0.5)}, r"std=\[0.5, 0.5\].*in_channels=3"),
        ({"in_channels": 1, "mean": (0.5, 0.5, 0.5), "std": (0.5,)}, "in_channels=1"),
        ({"std": (0.2, 0.0, 0.2)}, "std above 0"),
        ({"std": (0.2, -0.1, 0.2)}, "std above 0"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        AnchorNet(**bad)


# --- folding BatchNorm -----------------------------------------------------------------------------------------------


def test_folding_batchnorm_keeps_the_function():
    model = network(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1))
    make_batchnorm_matter(model)
    folded = fold_batchnorm(model)
    images = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model.eval()(images), atol=1e-4, rtol=1e-4)
        statistics_lost = copy.deepcopy(model)
        for module in statistics_lost.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
        assert not torch.allclose(folded(images), statistics_lost(images), atol=1e-2)  # so they do matter
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folding_batchnorm_leaves_the_model_alone():
    model = network()
    make_batchnorm_matter(model)
    model.stem.eval()
    model.classifier.requires_grad_(False)
    modes = [(name, type(module), module.training) for name, module in model.named_modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    folded = fold_batchnorm(model)
    for parameter in folded.parameters():
        parameter.data.fill_(9.0)  # nothing is shared
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_folding_into_an_earlier_copy_gives_what_a_new_copy_would():
    model = network()
    make_batchnorm_matter(model)
    folded = fold_batchnorm(model)
    before = copy.deepcopy(folded.state_dict())
    make_batchnorm_matter(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert fold_batchnorm(model, folded) is folded
    new = fold_batchnorm(model).state_dict()
    assert new.keys() == folded.state_dict().keys()
    for name, value in folded.state_dict().items():
        assert torch.equal(value, new[name]), name
        assert name in ("mean", "std") or not torch.equal(value, before[name]), name
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_gradients_by_the_pixels_survive_folding():
    model = network()
    make_batchnorm_matter(model)
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    gradients = [
        torch.autograd.grad(net(images).square().sum(), images)[0] for net in (fold_batchnorm(model), model.eval())
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


# --- files -----------------------------------------------------------------------------------------------------------

METADATA = {"dataset": "mnist5k", "recipe": {"method": "anchor", "epsilon": 0.3}, "robust accuracy": [0.5, None]}


@pytest.mark.parametrize(
    "arguments",
    [{}, {"projection_dim": 0}, {"in_channels": 1, "num_classes": 3, "width": 2, "mean": (0.1,), "std": (0.3,)}],
    ids=str,
)
def test_a_network_survives_saving_and_loading(tmp_path, arguments):
    model = network(**arguments)
    images = torch.rand(4, arguments.get("in_channels", 3), 16, 16)
    model(images)  # moves the BatchNorm statistics
    save(model, tmp_path / "net.safetensors", METADATA)
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.metadata == METADATA
    assert loaded.architecture == model.architecture
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(loaded(images), model.eval()(images))


def test_saving_leaves_the_model_in_its_mode_and_on_its_gradients(tmp_path):
    model = network().train()
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    save(model, tmp_path / "net.safetensors")
    assert model.training
    assert model.classifier.weight.requires_grad
    assert model.classifier.weight.grad is not None
    assert load(tmp_path / "net.safetensors").metadata == {}


def test_paths_may_be_text_and_folders_are_made(tmp_path):
    path = str(tmp_path / "new" / "folder" / "net.safetensors")
    save(network(), path)
    assert load(path).architecture["width"] == 4


@pytest.mark.parametrize("values", [torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.4, 0.3]).numpy()], ids=type)
def test_mean_and_std_may_be_an_array(tmp_path, values):
    save(network(mean=values, std=values), tmp_path / "net.safetensors")
    torch.testing.assert_close(load(tmp_path / "net.safetensors").mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))


def test_nothing_but_the_file_is_left_in_the_folder_also_when_overwriting(tmp_path):
    path = tmp_path / "net.safetensors"
    for seed in (0, 1):
        save(network(seed), path)
        assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    assert torch.equal(load(path).classifier.weight, network(1).classifier.weight)


def fail_half_way(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[:11])
    raise OSError("No space left on device")


def test_a_save_that_fails_half_way_keeps_the_old_file_and_leaves_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save(network(0), path)
    monkeypatch.setattr(Path, "write_bytes", fail_half_way)
    with pytest.raises(OSError, match="No space left"):
        save(network(1), path)
    assert torch.equal(load(path).classifier.weight, network(0).classifier.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_whoever_may_read_other_new_files_may_read_a_network(tmp_path):
    save(network(0), tmp_path / "net.safetensors")
    (tmp_path / "other").write_text("")
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folded_network_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="not fold_batchnorm's copy"):
        save(models.fold_batchnorm(network(0)), tmp_path / "net.safetensors")


def test_synchronised_batchnorm_is_folded_too():
    model = network(0).eval()
    folded = models.fold_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(network(0)).eval())
    assert not [layer for layer in folded.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(folded(images), model(images), atol=1e-4, rtol=1e-4)


def test_metadata_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError):
        save(network(), tmp_path / "net.safetensors", {"model": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.pt", "net", "net.safetensors.bak"])
def test_only_safetensors_are_written(tmp_path, name):
    with pytest.raises(ValueError, match=r"path=.*: allowed is a name that ends in \.safetensors"):
        save(network(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError):
        load(tmp_path)


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **text: str | None) -> None:
    """Change tensors or texts of a saved file; None removes a text. The checksum goes, as in older files."""
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() | {"sha256": None} | text
    tensors = load_file(path) if tensors is None else tensors
    save_file(tensors, path, metadata={name: value for name, value in texts.items() if value is not None})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors["classifier.bias"]
    rewrite(path, tensors)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": truncate,
    "not safetensors": lambda path: path.write_bytes(b"This is not the file that you are looking for." * 10),
    "a tensor is missing": lose_a_tensor,
    "no architecture": lambda path: rewrite(path, architecture=None),
    "architecture is not JSON": lambda path: rewrite(path, architecture="{"),
    "unknown architecture": lambda path: rewrite(path, architecture=json.dumps({"depth": 50})),
    "another width": lambda path: rewrite(path, architecture=json.dumps({"width": 5, "projection_dim": 8})),
    "no metadata": lambda path: rewrite(path, metadata=None),
    "metadata is not JSON": lambda path: rewrite(path, metadata="{"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "damaged.safetensors"
    save(network(), path)
    damage(path)
    with pytest.raises(ValueError, match=r"path=.*damaged\.safetensors"):
        load(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_in_half_precision_loads_as_float32(tmp_path, dtype):
    model, path = network(), tmp_path / "half.safetensors"
    model(torch.rand(4, 3, 16, 16))
    save(copy.deepcopy(model).to(dtype), path)
    assert load_file(path)["classifier.weight"].dtype == dtype
    loaded = load(path)
    for name, value in loaded.state_dict().items():
        original = model.state_dict()[name]
        assert value.dtype == original.dtype, name
        torch.testing.assert_close(value.float(), original.to(dtype).float(), msg=name)
    images = torch.rand(4, 3, 16, 16)
    assert loaded(images).dtype == torch.float32
    torch.testing.assert_close(loaded(images), model.eval()(images), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("part", ["tensor", "text", "checksum"])
def test_what_does_not_have_its_checksum_is_refused(tmp_path, part):
    path = tmp_path / "net.safetensors"
    save(network(), path, {"epoch": 3})
    with safe_open(path, framework="pt") as file:
        text = file.metadata()
    tensors = load_file(path)
    if part == "tensor":
        tensors["classifier.bias"] += 1e-7
    elif part == "text":
        text["metadata"] = json.dumps({"epoch": 4})
    else:
        text["sha256"] = "0" * 64
    save_file(tensors, path, metadata=text)
    with pytest.raises(ValueError, match=r"path=.*net\.safetensors.* does not have the checksum"):
        load(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file with a small network, its bytes, and the network as it must come out."""
    path = tmp_path_factory.mktemp("fuzz") / "net.safetensors"
    save(network(width=1, in_channels=1, projection_dim=0, num_classes=2), path, {"epoch": 3})
    return path, path.read_bytes(), load(path)


def loads_right_or_is_refused(small):
    path, _, right = small
    try:
        found = load(path)
    except ValueError as error:
        assert repr(str(path)) in str(error)  # noqa: PT017
    else:
        assert (found.metadata, found.architecture) == (right.metadata, right.architecture)
        assert all(torch.equal(value, right.state_dict()[name]) for name, value in found.state_dict().items())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_and_lost_bytes_are_refused_or_change_nothing(small, data):
    path, content, _ = small
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)), "kept")])
    header = int.from_bytes(content[:8], "little")
    places = st.integers(0, 8 + header) | st.integers(0, len(content) - 1)
    for place, bits in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), max_size=3), "flips"):
        if place < len(damaged):
            damaged[place] ^= bits
    path.write_bytes(bytes(damaged))
    loads_right_or_is_refused(small)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, 2**64 - 1) | st.integers(0, 300), rest=st.binary(max_size=300))
def test_headers_of_any_size_are_refused(small, start, rest):
    small[0].write_bytes(start.to_bytes(8, "little") + rest)
    with pytest.raises(ValueError, match=r"path=.*net\.safetensors"):
        load(small[0])


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.sampled_from(["num_classes", "width", "in_channels", "projection_dim", "stem_stride"])
SIZES = st.integers(-1, 4) | st.sampled_from([10**5, 10**9, 10**30]) | ANY_JSON


@settings(max_examples=100, deadline=None)
@given(change=st.dictionaries(ARGUMENTS, SIZES, max_size=2) | ANY_JSON, metadata=ANY_JSON | st.just({"epoch": 3}))
def test_any_architecture_and_metadata_without_a_checksum_are_refused_or_load(small, change, metadata):
    path, content, right = small
    path.write_bytes(content)
    architecture = {**right.architecture, **change} if isinstance(change, dict) else change
    rewrite(path, architecture=json.dumps(architecture), metadata=json.dumps(metadata))
    try:
        assert load(path).architecture["width"] == 1
    except ValueError as error:
        assert repr(str(path)) in str(error)  # noqa: PT017
