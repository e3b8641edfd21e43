"""Layers whose parameters are arguments of a function."""

import importlib
from typing import TYPE_CHECKING, Any

from bridge import _registry

if TYPE_CHECKING:
    from bridge._layers.torch import FunctionLayer as FunctionLayer


def __getattr__(name: str) -> Any:
    # Not imported with `bridge`: it is a class of torch.
    if name == "FunctionLayer":
        _registry.target("torch")
        return importlib.import_module("bridge._layers.torch").FunctionLayer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
