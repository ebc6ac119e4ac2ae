"""What callers most often get wrong, labels and epsilon, said in their terms. Below everything else, without torch."""

from __future__ import annotations

import re
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


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
