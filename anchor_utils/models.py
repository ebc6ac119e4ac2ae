"""ResNet-18 for small images, with a linear classifier and a projection head, and its file format."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.resnet import BasicBlock

from anchor_utils.files import data_folder, sha256, write_atomically

PRETRAINED_DIR = data_folder("data/pretrained", __file__)
FILES = "https://github.com/anchor-course/anchor-course/raw/main/data/pretrained"
# The networks in this folder: width -> name of the file of a method, and the methods. Width 64 is in no wheel.
PRETRAINED = {
    16: ("cifar10-{}.safetensors", ("anchor", "mart", "pgd_at", "standard", "supcon_at", "trades")),
    64: ("cifar10-w64-{}.safetensors", ("anchor", "pgd_at")),
}

PRECISIONS = ("float32", "tf32", "auto", "bfloat16", "float16")


class Shortcut(nn.Conv2d):
    """The 1x1 convolution of stride 2 beside the first block of a stage, as every second pixel and stride 1.

    The same function. As one convolution of stride 2 with few input channels, oneDNN gets its weight gradient in
    channels-last layout wrong or crashes (fewer than 8 channels on AVX2).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, ::2, ::2])


class AnchorNet(nn.Module):
    """ResNet-18 modified for small images: a 3x3 stem and no max-pooling.

    Takes images in [0, 1] of shape (N, C, H, W); the normalisation by `mean` and `std` is inside, so an attack
    works on pixels and its epsilon means what it says.

    Args:
        num_classes: outputs of the linear classifier.
        width: channels of the first stage; the four stages have 1, 2, 4 and 8 times as many. 64 is ResNet-18.
        in_channels: 1 for grey images, 3 for colour.
        projection_dim: P, outputs of the projection head, a two-layer perceptron as in SupCon (arXiv 2004.11362,
            section 3.1); 0 leaves the head out.
        mean, std: of the training pixels, one value a channel.
        stem_stride: 1, as usual for CIFAR-10, or 2, which halves the side of every feature map: a quarter of the work.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        in_channels: int = 3,
        projection_dim: int = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        mean = [0.0] * in_channels if mean is None else [float(value) for value in mean]
        std = [1.0] * in_channels if std is None else [float(value) for value in std]
        for name, value in (("num_classes", num_classes), ("width", width), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"{name}={value}: allowed is 1 or more")
        if projection_dim < 0:
            raise ValueError(f"projection_dim={projection_dim}: allowed is 0 (no projection head) or more")
        if stem_stride not in (1, 2):
            raise ValueError(f"stem_stride={stem_stride}: allowed are 1, 2")
        if len(mean) != in_channels or len(std) != in_channels or not min(std) > 0:
            raise ValueError(
                f"mean={mean}, std={std}: need one value for each of in_channels={in_channels}, std above 0"
            )
        self.metadata: dict[str, Any] = {}
        self.architecture: dict[str, Any] = {
            "num_classes": num_classes,
            "width": width,
            "in_channels": in_channels,
            "projection_dim": projection_dim,
            "mean": mean,
            "std": std,
            "stem_stride": stem_stride,
        }
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            _stage(width, width, 1),
            _stage(width, 2 * width, 2),
            _stage(2 * width, 4 * width, 2),
            _stage(4 * width, 8 * width, 2),
        )
        dim = 8 * width
        self.classifier = nn.Linear(dim, num_classes)
        self.projection: nn.Module | None = None
        if projection_dim:
            self.projection = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, projection_dim))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    @property
    def feature_dim(self) -> int:
        """D, the length of a feature vector."""
        return self.classifier.in_features

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, D) of images (N, C, H, W) in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != self.mean.shape[1]:
            raise ValueError(f"images have shape {tuple(images.shape)}: allowed is (N, {self.mean.shape[1]}, H, W)")
        # Images may be float64, and the network in half precision.
        x = ((images - self.mean) / self.std).to(self.classifier.weight.dtype)
        x = self.stages(self.stem(x.contiguous(memory_format=torch.channels_last)))
        return x.mean((2, 3))

    def project(self, features: Tensor) -> Tensor:
        """Embeddings (N, P) of unit norm from features (N, D); what the contrastive losses see."""
        if self.projection is None:
            raise ValueError("projection_dim=0: this network has no projection head (fine-tuning drops it)")
        return F.normalize(self.projection(features).float(), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W) in [0, 1]."""
        return self.classifier(self.encode(images))


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride == 2:
        shortcut = nn.Sequential(Shortcut(in_channels, channels), nn.BatchNorm2d(channels))
    return nn.Sequential(BasicBlock(in_channels, channels, stride, shortcut), BasicBlock(channels, channels))


@contextmanager
def frozen(model: nn.Module, model_mode: str) -> Iterator[None]:
    """Put the model into the wanted mode without parameter gradients, and put everything back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if model_mode == "eval":
        model.eval()
    # Only BatchNorm in train mode writes to buffers.
    buffers = [(b, b.clone()) for b in model.buffers()] if any(m.training for m in model.modules()) else []
    for parameter, _ in grads:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in grads:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def resolve_precision(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype that `precision` means on `device`; "auto" is the fastest that is computed natively there.

    "tf32" is float32 whose convolutions an NVIDIA GPU may round to 10 bits of mantissa, see :func:`tf32`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: allowed are {', '.join(PRECISIONS)}")
    if precision != "auto":
        return torch.float32 if precision == "tf32" else getattr(torch, precision)
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if kind == "cpu":
        # The CPU says what it has, oneDNN what it will use: ONEDNN_MAX_CPU_ISA may have asked it for less. Of these two
        # levels oneDNN says yes as well, but it emulates.
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
        emulated = limit.upper() in ("AVX512_CORE", "AVX512_CORE_VNNI")
        if native and not emulated and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return torch.bfloat16
    return torch.float32


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within, whether an NVIDIA GPU may compute float32 convolutions in TF32, as torch does unless told not to.

    Matrix products stay in float32, as torch has them. On other devices this changes nothing.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def fold_batchnorm(model: AnchorNet, into: AnchorNet | None = None) -> AnchorNet:
    """A frozen copy in eval mode whose BatchNorm layers are folded into the convolutions.

    The same function as ``model.eval()`` up to rounding, and about half again as fast to attack, so the inner
    problem of training uses it. `model` is left as it is.

    Args:
        into: what an earlier call returned for this network; it is overwritten, which is ten times as fast as a copy.
    """
    old = dict(model.named_modules())
    pairs = [
        (convolution, norm)
        for convolution, norm in pairwise(old)
        if isinstance(old[convolution], nn.Conv2d) and isinstance(old[norm], nn.modules.batchnorm._BatchNorm)
    ]
    if into is None:
        into = copy.deepcopy(model).eval()
        for convolution, norm in pairs:
            fused = into.get_submodule(convolution)
            assert isinstance(fused, nn.Conv2d)
            fused.bias = nn.Parameter(torch.zeros_like(fused.weight[:, 0, 0, 0]))
            into.set_submodule(norm, nn.Identity())
        into.requires_grad_(False).eval().to(memory_format=torch.channels_last)
    new = dict(into.named_modules())
    with torch.no_grad():
        for convolution, norm in pairs:
            first, second, fused = old[convolution], old[norm], new[convolution]
            statistics = second.running_mean, second.running_var, second.eps, second.weight, second.bias
            weight, bias = fuse_conv_bn_weights(first.weight, first.bias, *statistics)
            fused.weight.copy_(weight)
            fused.bias.copy_(bias)
        for head in (name for name in ("classifier", "projection") if name in old):
            new[head].load_state_dict(old[head].state_dict())
    return into


def save(model: AnchorNet, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write the weights as .safetensors, atomically, with architecture and `metadata` (JSON values) inside.

    Raises:
        ValueError: the name does not end in .safetensors, or the network comes from :func:`fold_batchnorm`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r}: allowed is a name that ends in .safetensors")
    if isinstance(model.stem[1], nn.Identity):
        raise ValueError("model: allowed is a network with its BatchNorm layers, not fold_batchnorm's copy")
    text = {"architecture": json.dumps(model.architecture), "metadata": json.dumps(metadata or {})}
    write_tensors(path, model.state_dict(), text)


def write_tensors(path: Path, tensors: dict[str, Tensor], text: dict[str, str], *, keep: Path | None = None) -> None:
    """Write tensors and text as a .safetensors file with a checksum, atomically; the old file stays as `keep`."""
    data = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = to_bytes(data, metadata={**text, "sha256": checksum(data, text)})
    # Not save_file, whose files nobody but their owner may read.
    write_atomically(path, lambda temporary: temporary.write_bytes(content), keep=keep)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the text of a .safetensors file.

    Raises:
        ValueError: the file is damaged; whoever calls names it. A file without a checksum, by another program or from
            before there were any, is taken as it is.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            # Copies: nothing may hold on to a file that is written anew.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # safetensors raises many types
        raise ValueError(f"no whole .safetensors file: {error}") from error
    if text.pop("sha256", None) not in (None, checksum(tensors, text)):
        raise ValueError("its content does not have the checksum that it was written with")
    return tensors, text


def checksum(tensors: dict[str, Tensor], text: dict[str, str]) -> str:
    """Hexadecimal checksum of named tensors and text, whatever their order."""
    parts: list[str | Tensor] = [json.dumps(text, sort_keys=True)]
    for name, value in sorted(tensors.items()):
        parts += [f"{name} {value.dtype} {list(value.shape)}", value]
    return sha256(*parts)


def load(path: str | Path) -> AnchorNet:
    """Read a network that :func:`save` wrote, on the CPU in eval mode; its metadata is in ``.metadata``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one that :func:`save` wrote, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path={str(path)!r}: no such file")
    try:
        tensors, text = read_tensors(path)
        architecture = json.loads(text["architecture"])
        with torch.device("meta"):  # takes no memory, whatever sizes a file asks for
            shapes = {name: value.shape for name, value in AnchorNet(**architecture).state_dict().items()}
        if shapes != {name: value.shape for name, value in tensors.items()}:
            raise ValueError("its tensors are not those of its architecture")
        model = AnchorNet(**architecture)
        model.metadata = {**json.loads(text["metadata"])}
        # Stored in half precision or not, a network computes in float32.
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
    except Exception as error:
        raise ValueError(f"path={str(path)!r} is not a network saved by anchor_utils.models.save: {error}") from error
    return model.eval()


def pretrained(method: str, width: int = 16) -> AnchorNet:
    """A network for CIFAR-10 that comes with the course, see PRETRAINED; its model card is beside the file.

    Raises:
        ValueError: there is none of this width, or none of this method; names those that there are.
        FileNotFoundError: the package was installed without this large file; says where it is to be had.
    """
    if width not in PRETRAINED:
        raise ValueError(f"width={width!r}: allowed are {', '.join(map(str, PRETRAINED))}")
    name, methods = PRETRAINED[width]
    if method not in methods:
        raise ValueError(f"method={method!r}: allowed are {', '.join(methods)} for width={width}")
    path = PRETRAINED_DIR / name.format(method)
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} is missing: an installed package leaves networks of width {width} out. Get it from the "
            f"folder data/pretrained of the repository, {FILES}/{path.name}, and put it "
            "there, or read it from where it is with anchor_utils.models.load"
        )
    return load(path)
