"""What callers get wrong, said in their terms. Below everything else, and loaded without torch."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import chain
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from pydantic import ValidationError
    from torch import Tensor, nn


def class_labels(
    labels: Tensor, count: int, classes: int | None = None, *, name: str = "labels", owner: str | None = None
) -> Tensor:
    """Labels of any integer type as int64.

    Args:
        labels: (N,), one class for each row.
        count: N.
        classes: the number K of outputs of the network, where it is known; labels are then 0 to K - 1.
        name, owner: what the message calls the labels, and whose classes they are ("a network with K outputs").

    Raises:
        ValueError: not N integers, or outside 0 to K - 1.
    """
    no_integers = labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool"
    if labels.shape != (count,) or no_integers:
        single = "; a single image is a batch of one, image[None]" if not labels.ndim else ""
        raise ValueError(
            f"{name} have shape {tuple(labels.shape)} and dtype {labels.dtype}: allowed are {count} integers, one for "
            f"each row or image{single}"
        )
    labels = labels.long()
    if classes is not None and len(outside := labels[(labels < 0) | (labels >= classes)]):
        from_one = "; labels start at 0, subtract 1" if labels.min() >= 1 and labels.max() == classes else ""
        values = ", ".join(map(str, outside.unique()[:5].tolist()))
        owner = owner or f"a network with {classes} outputs"
        raise ValueError(f"{name}={values}: allowed are 0 to {classes - 1} for {owner}{from_one}")
    return labels


def epsilon_hint(value: Any) -> str:
    """What to add to the message about a radius or step in units of 0 to 255, where 0 to 1 is allowed; else nothing."""
    if isinstance(value, Real) and not isinstance(value, bool) and 1 < float(value) <= 255:
        return f"; did you mean {float(value):g}/255 = {float(value) / 255:.3g}?"
    return ""


def text_hint(value: Any) -> str:
    """What to add to the message about a text such as "8/255" or "1e-3" where a number is allowed; else nothing."""
    if isinstance(value, str) and (spelt := re.fullmatch(r"([\d.eE+-]+)(?:/([\d.]+))?", value.strip())):
        try:
            return f"; {value!r} is a text, write {float(spelt[1]) / float(spelt[2] or 1):.6g}"
        except (ValueError, ZeroDivisionError):
            pass
    return ""


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """Where the model's parameters are; where the images are, if it has none."""
    from torch import nn  # not above: a configuration is checked before torch, which loads slowly

    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: allowed is a torch.nn.Module that maps images to logits")
    return next(chain(model.parameters(), model.buffers()), images).device


def check_pixels(images: Tensor) -> None:
    """Raise ValueError unless the images (N, ...) are floating point in [0, 1]."""
    from torch import Tensor

    if not isinstance(images, Tensor):
        raise ValueError(f"images are a {type(images).__name__}: allowed is a torch.Tensor")
    if not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}: allowed is floating point in [0, 1]; divide uint8 by 255")
    if images.ndim < 2:
        raise ValueError(f"images have shape {tuple(images.shape)}: allowed is (N, ...), such as (N, C, H, W)")
    if images.numel():
        low, high = images.aminmax()
        if not (low >= 0 and high <= 1):
            undo = "; undo any normalisation, it belongs inside the model" if low.isfinite() and high.isfinite() else ""
            raise ValueError(f"images lie in [{low.item():.4g}, {high.item():.4g}]: allowed is [0, 1]{undo}")


def check_inputs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The labels as int64; ValueError unless images (N, ...) in [0, 1], labels (N,) and model belong together."""
    from torch import Tensor

    check_pixels(images)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels are a {type(labels).__name__}: allowed is a torch.Tensor")
    devices = device_of(model, images), images.device, labels.device
    if len(set(devices)) > 1:
        raise ValueError("model, images and labels are on {}, {} and {}: allowed is one device".format(*devices))
    return class_labels(labels, len(images))


def count_classes(logits: Any, images: int) -> int:
    """K of logits (N, K); ValueError if that is not what the model returned for N images."""
    from torch import Tensor

    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images or logits.shape[1] < 2:
        raise ValueError(f"model returned {found} for {images} images: allowed are logits (N, K), K at least 2")
    return logits.shape[1]


def _number(value: Any) -> float:
    """NaN, which no range holds, for what is not a number."""
    try:
        return float("nan" if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return float("nan")


def check_epsilon(epsilon: float, norm: str) -> None:
    """Raise ValueError unless `norm` is known and epsilon is a radius in it."""
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm={norm!r}: allowed are 'linf', 'l2'")
    if norm == "linf" and not 0 <= _number(epsilon) <= 1:
        hint = text_hint(epsilon) or epsilon_hint(epsilon)
        raise ValueError(f"epsilon={epsilon!r}: allowed is [0, 1] in units of pixel intensity{hint}")
    if not 0 <= _number(epsilon) < float("inf"):
        raise ValueError(f"epsilon={epsilon!r}: allowed is a finite radius of 0 or more{text_hint(epsilon)}")


def check_steps(step_size: float, steps: int, restarts: int, random_start: bool = True, norm: str = "linf") -> None:
    """Raise ValueError unless these are steps that PGD can take."""
    if not 0 < _number(step_size) < float("inf"):
        raise ValueError(f"step_size={step_size!r}: allowed is a finite number above 0{text_hint(step_size)}")
    if norm == "linf" and step_size > 1:
        raise ValueError(f"step_size={step_size!r}: allowed is at most 1 for norm='linf'{epsilon_hint(step_size)}")
    if not (isinstance(steps, Integral) and steps >= 1):
        raise ValueError(f"steps={steps!r}: allowed is 1 or more, a whole number")
    if not (isinstance(restarts, Integral) and restarts >= 1 and (restarts == 1 or random_start)):
        raise ValueError(f"restarts={restarts!r}: allowed is 1, or more together with random_start=True")


def unknown_name(what: str, name: str, allowed: list[str]) -> str:
    """The message for a misspelt name, with the closest allowed one."""
    close = get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {what} {name!r}{hint} Allowed: {', '.join(allowed)}"


def readable(error: ValidationError, properties: dict[str, Any] | None = None) -> str:
    """Pydantic's findings as one line: argument, value, what is allowed, and what was probably meant.

    What is allowed is said in our words where `properties`, JSON schemas by name, has the field.
    """
    properties, lines = properties or {}, []
    for item in error.errors():
        own = item["msg"].removeprefix("Value error, ")  # what a validator of ours said
        if not item["loc"]:
            lines.append(own)
            continue
        first, value = str(item["loc"][0]), item["input"]
        name = first if first in properties else ".".join(map(str, item["loc"]))
        ours = item["type"] != "value_error" and name in properties
        allowed = f"allowed is {_in_words(properties[name])}" if ours else own[0].lower() + own[1:]
        allowed += ", finite" if item["type"] == "finite_number" else ""
        line = f"{name}={value!r}: {allowed}{_meant(name, value)}"
        lines += [] if line in lines else [line]  # for "a number or null" pydantic finds two misfits
    return "; ".join(lines)


_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _in_words(schema: dict[str, Any]) -> str:
    """What the JSON schema of a field allows."""
    if "anyOf" in schema:
        return ", or ".join(map(_in_words, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(repr, schema["enum"]))
    bounds = [f"{words} {schema[key]:.15g}" for key, words in _BOUNDS.items() if key in schema]
    return ", ".join([_TYPES.get(schema["type"], schema["type"]), *bounds])


def _meant(name: str, value: Any) -> str:
    """The number that a text spells, or that a size in units of 0 to 255 is in [0, 1]; else nothing."""
    return text_hint(value) or (epsilon_hint(value) if name in ("epsilon", "step_size", "eval_step_size") else "")
