"""Adversarially robust representation learning: attacks, losses, training and honest evaluation.

The submodules are loaded on first use, so ``import anchor_utils`` costs nothing beyond the interpreter.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "attacks",
    "autoattack",
    "config",
    "data",
    "devices",
    "downloads",
    "embeddings",
    "engine",
    "evaluation",
    "folding",
    "imagefolder",
    "loop",
    "losses",
    "masking",
    "models",
    "objectives",
    "outcomes",
    "plotting",
    "results",
    "runs",
    "training",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
