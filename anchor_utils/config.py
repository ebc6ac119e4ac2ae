"""The one configuration object, and the presets that fill it.

A preset is a YAML file in ``configs/presets/``. It is at the same time a set of papermill parameters: its
``preset`` line selects it inside a notebook, and the other lines are the fields of :class:`Config`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any, Literal, TypedDict

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from anchor_utils.checks import readable, unknown_name
from anchor_utils.files import data_folder


@dataclass(frozen=True)
class Method:
    """A row of :data:`METHODS`: what is to be known of a training method besides its objective.

    Args:
        label: its name in figures and tables.
        color, marker: of its lines, as matplotlib reads them; the same in every figure.
        fields: of the configuration, that it reads and not every method does.
        attacked: trains on adversarial images. Its checkpoint is chosen by robust accuracy, else by clean accuracy.
        contrastive: has a loss on embeddings, and so a projection head that is trained.
        probe: its classifier is a linear probe, whose gradient does not reach the encoder.
        views: images in the training pass for each image of the batch, unless `contrast_views` says otherwise.
    """

    label: str
    color: str
    marker: str
    fields: tuple[str, ...] = ()
    attacked: bool = True
    contrastive: bool = False
    probe: bool = False
    views: int = 1


_INNER = ("attack_steps", "attack_mode", "epsilon_warmup")
_CROSS_ENTROPY = ("label_smoothing",)
_CONTRAST = (*_CROSS_ENTROPY, "temperature", "contrastive_weight")
_ADVERSARIAL_CONTRAST = (
    *(*_INNER, *_CONTRAST),
    *("classifier_view", "contrast_on", "contrast_views", "consistency_weight"),
)
_MINING = ("beta", "mining", "mining_share", "mining_skip", "permute_weights")
# A method is a row here, a function of its name in objectives.OBJECTIVES, and a loss if it needs a new one. The colours
# are Okabe and Ito's, safe for colour-blind readers.
METHODS: dict[str, Method] = {
    "standard": Method("standard", "#000000", "o", _CROSS_ENTROPY, attacked=False),
    "pgd_at": Method("PGD-AT", "#0072B2", "s", (*_INNER, *_CROSS_ENTROPY)),
    "trades": Method("TRADES", "#56B4E9", "^", (*_INNER, *_CROSS_ENTROPY, "trades_beta"), views=2),
    "mart": Method("MART", "#009E73", "v", (*_INNER, "mart_beta"), views=2),
    "supcon": Method("SupCon", "#999999", "P", _CONTRAST, attacked=False, contrastive=True, probe=True, views=2),
    "supcon_at": Method("SupCon-AT", "#E69F00", "D", _ADVERSARIAL_CONTRAST, contrastive=True, views=2),
    "anchor": Method("ANCHOR", "#D55E00", "X", (*_ADVERSARIAL_CONTRAST, *_MINING), contrastive=True, views=2),
}
ATTACKS = ("clean", "noise", "fgsm", "pgd", "screen", "autoattack")
# What is reported of a network. The other two show what attacks do, not how robust it is.
REPORTED = tuple(name for name in ATTACKS if name not in ("noise", "fgsm"))
# Fields that only some methods read. A method that a notebook adds cannot take a field away from the others.
_OPTIONAL = frozenset(name for method in METHODS.values() for name in method.fields)
DATASETS = ("mnist5k", "cifar10", "cifar100", "fashion_mnist")
PRESET_DIR = data_folder("configs/presets", __file__)

UnitInterval = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Step = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Steps(TypedDict):
    """Radius, step and number of steps of PGD, as :func:`anchor_utils.attacks.pgd` takes them."""

    epsilon: float
    step_size: float
    steps: int


class Training(BaseModel):
    """What decides the weights, and so the name of the run folder."""

    # Data and network
    dataset: str = Field("mnist5k", description="one of DATASETS or imagefolder:PATH")
    train_images: Count | None = Field(None, description="use this many training images; None: all")
    validation_images: Count = Field(400, description="training images held out to choose the checkpoint")
    crop_padding: Annotated[int, Field(ge=0, le=16)] = Field(2, description="pixels, random-crop augmentation")
    flip: bool = Field(False, description="random horizontal flips; wrong for digits")
    width: Annotated[int, Field(ge=1, le=256)] = Field(8, description="channels of the first stage; ResNet-18 has 64")
    stem_stride: Literal[1, 2] = Field(1, description="2: feature maps of half the side, a quarter of the work")
    projection_dim: Count = Field(64, description="length of the embeddings that the contrastive losses compare")

    # Method
    method: str = Field("anchor", description="one of METHODS")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    temperature: Positive = Field(0.1, description="tau in eq. 2")
    beta: NonNegative = Field(
        10.0,
        description="of anchor: hardness in eq. 1, or gamma of standardised and semi_hard (1 to 2 there); 0: SupCon",
    )
    mining: Literal["exponential", "standardised", "hardest", "classifier", "displacement", "semi_hard"] = Field(
        "exponential", description="how positives are weighed: a row of mining.FORMULATIONS; exponential is eq. 1"
    )
    mining_share: Share = Field(0.25, description="of the positives that mining: hardest keeps")
    mining_skip: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the hardest positives that mining: hardest leaves out"
    )
    permute_weights: bool = Field(False, description="deal an anchor's weights to its positives at random: a control")
    contrast_on: Literal["projection", "features"] = Field(
        "projection", description="what the contrastive term sees: the head's output, or the encoder's features"
    )
    contrast_views: Literal[2, 3] = Field(2, description="3: the image itself, augmented and adversarial")
    consistency_weight: NonNegative = Field(
        0.0, description="of KL(p(first view) || p(x_adv)), added to eq. 3 (as in ASCL, arXiv 2101.10027)"
    )
    contrastive_weight: NonNegative = Field(1.0, description="lambda in eq. 3")
    classifier_view: Literal["adversarial", "both"] = Field("adversarial", description="what CE sees in eq. 3")
    trades_beta: NonNegative = Field(6.0, description="of trades: beta_TRADES, the factor of the KL term")
    mart_beta: NonNegative = Field(5.0, description="of mart: beta_MART, the factor of the weighted KL term")

    # The inner problem (eq. 4)
    epsilon: UnitInterval = Field(0.3, description="L-infinity radius in units of pixel intensity [0, 1]")
    step_size: Step = Field(0.1, description="of PGD in training, in units of pixel intensity")
    attack_steps: Count = Field(7, description="of PGD in training")
    epsilon_warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the training steps in which epsilon and step size rise linearly to their values"
    )
    attack_mode: Literal["eval", "train"] = Field("eval", description="BatchNorm mode of the attacked network")

    # Optimisation
    epochs: Count = Field(6, description="passes over the training images")
    batch_size: Annotated[int, Field(ge=2)] = Field(128, description="images of a training step")
    learning_rate: Positive = Field(0.05, description="of SGD, the highest of its schedule")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["cosine", "one_cycle", "step", "constant"] = Field(
        "cosine", description="after the warm-up; one_cycle falls linearly to 0 (Smith and Topin, arXiv 1708.07120)"
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="share of the steps with rising rate")
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    validation_steps: Count = Field(10, description="PGD steps that score a checkpoint, on held-out images")

    # Options of the recipe, off by default
    nesterov: bool = Field(False, description="Nesterov's momentum")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of the averaged weights that are then evaluated (as in arXiv 2010.03593); 0: no average"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="of the outer cross-entropy (as in arXiv 2010.00467); MART's boosted one has none"
    )
    random_erasing: UnitInterval = Field(0.0, description="probability that a view loses a box (arXiv 1708.04896)")
    awp: NonNegative = Field(
        0.0, description="gamma of the adversarial weight perturbation, a share of each layer's norm (arXiv 2004.05884)"
    )


class Evaluation(BaseModel):
    """What is done with a trained network."""

    finetune_epochs: Count = Field(2, description="of a new linear classifier on the frozen encoder")
    finetune_learning_rate: Positive = 0.05
    test_images: Count = Field(1000, description="test images for clean accuracy and PGD")
    eval_step_size: Step = Field(0.03, description="of the PGD that is reported, in units of pixel intensity")
    eval_steps: Count = Field(20, description="of the PGD that is reported")
    eval_restarts: Count = 1
    eval_precision: Literal["float32", "tf32", "auto", "bfloat16", "float16"] = Field(
        "float32", description="of the queries of AutoAttack and the screen; outcomes are in float32, with tf32 in that"
    )
    autoattack_images: Count = Field(50, description="test images for AutoAttack")
    screen_images: Count = Field(100, description="test images for the screen, AutoAttack's first two attacks")
    embedding_images: Count = Field(500, description="test images on the maps of features")
    seeds: Count = Field(1, description="seeds that the method comparison trains; seed, seed + 1, ...")


class Places(BaseModel):
    """Where files lie and on what is computed."""

    data_root: str = "data"
    runs_dir: str = "runs"
    keep_epochs: bool = Field(False, description="keep the weights after every epoch, in a run folder of their own")
    graph: bool | None = Field(
        None, description="train by the engine, which records the step as a CUDA graph; None: on a CUDA GPU"
    )
    deterministic: bool = Field(False, description="the same bits again on a GPU, slower; a CPU gives them always")
    device: Literal["auto", "cpu"] = Field(
        "auto", description="auto takes a CUDA GPU (CUDA_VISIBLE_DEVICES says which), else an Apple GPU"
    )


class Config(Places, Evaluation, Training):
    """Everything that a training run and its evaluation depend on, in three groups of fields.

    Unknown names and values out of range raise :class:`ValueError` with the name, the value and what is allowed.
    """

    # Strict: True is no number, "3" is no number, 1 is no truth value.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        if name in DATASETS:
            return name
        if name.startswith("imagefolder:") and (folder := name.rstrip("/\\")) != "imagefolder:":
            return folder  # with and without a slash at its end it is the same folder, and the same run
        raise ValueError(f"allowed are {', '.join(DATASETS)} and imagefolder:PATH")

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"allowed is {', '.join(map(repr, METHODS))}")
        if unknown := sorted({*METHODS[name].fields} - Training.model_fields.keys()):
            raise ValueError(f"its row of METHODS names {', '.join(unknown)}: allowed are fields of Training")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.train_images is not None and self.validation_images >= self.train_images:
            raise ValueError(
                f"validation_images={self.validation_images} is held out of train_images={self.train_images}; "
                "it must be smaller"
            )
        if self.awp and self.permute_weights:
            raise ValueError(f"permute_weights=True with awp={self.awp:g}: allowed is 0, each pass would deal anew")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True with momentum=0.0: allowed is a momentum above 0")
        return self

    def __init__(self, /, **values: Any) -> None:
        unknown = [name for name in values if name not in type(self).model_fields]
        if unknown:
            raise ValueError(unknown_name("parameter", unknown[0], list(type(self).model_fields)))
        numbers = {name: int(v) for name, v in values.items() if isinstance(v, Integral) and not isinstance(v, bool)}
        try:
            super().__init__(**values | numbers)  # also numpy's integers are whole numbers
        except ValidationError as error:
            raise ValueError(readable(error, type(self).model_json_schema()["properties"])) from None

    def replace(self, **changes: Any) -> Config:
        """A validated copy with some fields changed."""
        return Config(**{**self.model_dump(), **changes})

    def attack(self) -> Steps:
        """The inner problem of training: ``pgd(model, images, labels, **config.attack())``."""
        return {"epsilon": self.epsilon, "step_size": self.step_size, "steps": self.attack_steps}

    def evaluation(self) -> Steps:
        """PGD as it is reported, but for `eval_restarts`: ``evaluate(model, dataset, **config.evaluation())``."""
        return {"epsilon": self.epsilon, "step_size": self.eval_step_size, "steps": self.eval_steps}

    def views(self) -> int:
        """Images in the training pass for each image of the batch."""
        read = METHODS[self.method]
        return self.contrast_views if "contrast_views" in read.fields else read.views

    def contrasts_features(self) -> bool:
        """Whether the contrastive term sees the encoder's features, not the projection head's output."""
        return "contrast_on" in METHODS[self.method].fields and self.contrast_on == "features"

    def training_fields(self) -> dict[str, Any]:
        """The fields that decide the weights of a training run with this method.

        A field that came after the first runs is left out at its default: those runs keep their names. So the default
        of such a field can never change: an absent field is one at its default.
        """
        known, read = type(self).model_fields, METHODS[self.method].fields
        unread = _OPTIONAL - {*read}
        fields = self.model_dump(exclude={*Evaluation.model_fields, *Places.model_fields, *unread})
        return {k: v for k, v in fields.items() if k in _ALWAYS_NAMED or v != known[k].default}

    def run_name(self) -> str:
        """Folder name of the run: readable parts and a hash of all training fields."""
        name = f"{_slug(self.dataset)}-{self.method}-w{self.width}-s{self.seed}-{digest(self.training_fields())}"
        return f"{name}-epochs" if self.keep_epochs else name


# What the name of a run has said from the first on. No field joins this list: it would rename every run.
_ALWAYS_NAMED = {
    *("dataset", "train_images", "validation_images", "crop_padding", "flip", "width", "projection_dim", "method"),
    *("seed", "temperature", "beta", "contrastive_weight", "classifier_view", "trades_beta", "mart_beta", "epsilon"),
    *("step_size", "attack_steps", "epsilon_warmup", "attack_mode", "epochs", "batch_size", "learning_rate"),
    *("momentum", "weight_decay", "schedule", "warmup", "precision", "validation_steps"),
}


def digest(fields: dict[str, Any]) -> str:
    """Eight hexadecimal digits that identify a set of JSON values."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    last = re.split(r"[/\\]", text)[-1]  # also of a path that was written on Windows
    return "".join(c if c.isalnum() else "-" for c in last).strip("-") or "images"


def presets() -> list[str]:
    """Names of the presets, smallest first where the order is known."""
    known = ["smoke", "cpu", "cifar10_cpu", "t4", "minutes", "paper"]
    found = {path.stem for path in PRESET_DIR.glob("*.yaml")}
    return [name for name in known if name in found] + sorted(found - set(known))


def read_yaml(what: str, text: str | bytes) -> Any:
    """What a YAML text says; ValueError that names `what` if it is none."""
    try:
        return yaml.safe_load(text)
    # A date that does not exist, or a tower of brackets, is no YAMLError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: allowed is YAML, such as 3, true, text or [1, 2]; {error}") from None


def as_fields(what: str, found: Any) -> dict[str, Any]:
    """`found` itself if it maps names to values; else a ValueError that begins with `what`."""
    if isinstance(found, dict) and all(isinstance(name, str) for name in found):
        return found
    raise ValueError(f"{what}: allowed is a mapping of fields to values, such as {{epochs: 3}}")


def preset_values(name: str) -> dict[str, Any]:
    """The fields that the YAML file of a preset sets, unvalidated."""
    if name not in presets():
        raise ValueError(unknown_name("preset", name, presets()))
    path = PRESET_DIR / f"{name}.yaml"
    what = f"preset file {str(path)!r}"
    values = as_fields(what, read_yaml(what, path.read_bytes()))
    return {field: value for field, value in values.items() if field != "preset"}


def load_preset(name: str, /, **overrides: Any) -> Config:
    """The configuration of a preset, with some fields replaced.

    Raises:
        ValueError: for an unknown preset or field, or a value out of range; names what is allowed.
    """
    return Config(**{**preset_values(name), **overrides})
