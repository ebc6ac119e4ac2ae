"""Which networks an attack may query as a copy with folded BatchNorm, and that copy."""

from __future__ import annotations

import torch
from torch import nn

from anchor_utils.models import AnchorNet, fold_batchnorm

# What a module has in itself if somebody watches it or has given it another forward pass.
WATCHED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
REPLACED = ("forward", "encode", "_compiled_call_impl")


def foldable(model: nn.Module) -> bool:
    """Whether :func:`for_attack` folds this network: an :class:`AnchorNet` in float32 or float64, just as it was built.

    Not one with layers that were exchanged, hooks, or a forward pass of its own or compiled: the copy might be another
    function, or what watches the network would miss the attack. Nor one in half precision, where rounding the folded
    weights once more changes the logits by as much as the precision itself does.
    """
    full = {torch.float32, torch.float64}
    if type(model) is not AnchorNet or not {parameter.dtype for parameter in model.parameters()} <= full:
        return False
    with torch.device("meta"):  # takes no memory, and no random numbers
        built = AnchorNet(**model.architecture)
    layers, wanted = ([(name, type(layer)) for name, layer in net.named_modules()] for net in (model, built))
    same = layers == wanted and model.state_dict().keys() == built.state_dict().keys()
    return same and not any(vars(layer).get(name) for layer in model.modules() for name in (*WATCHED, *REPLACED))


def for_attack(model: nn.Module) -> nn.Module:
    """What an attack in eval mode queries in place of `model`: a folded copy if it is :func:`foldable`, else itself.

    The copy is faster and, up to rounding, the same function. So what an attack finds on it is a candidate, and whether
    the attack has succeeded is for `model` to say.
    """
    return fold_batchnorm(model) if isinstance(model, AnchorNet) and foldable(model) else model
