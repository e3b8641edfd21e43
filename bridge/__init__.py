"""Functions of JAX, MLX and PyTorch, each called from the others."""

import importlib as _importlib
import typing as _typing

from bridge import nn as nn, rules as rules
from bridge._api.convert import to_jax as to_jax, to_mlx as to_mlx, to_torch as to_torch
from bridge._api.jax import jax2mlx as jax2mlx, jax2torch as jax2torch
from bridge._api.mlx import mlx2jax as mlx2jax, mlx2torch as mlx2torch
from bridge._api.numpy import (
    numpy2jax as numpy2jax,
    numpy2mlx as numpy2mlx,
    numpy2torch as numpy2torch,
)
from bridge._api.programs import register_calls as register_calls
from bridge._api.torch import torch2jax as torch2jax, torch2mlx as torch2mlx
from bridge._calls.bridged_function import BridgedFunction as BridgedFunction
from bridge._calls.functional import Functional as Functional
from bridge._core.errors import (
    ArgumentError as ArgumentError,
    BridgeError as BridgeError,
    CopyError as CopyError,
    DeviceError as DeviceError,
    MissingFrameworkError as MissingFrameworkError,
    NoRuleError as NoRuleError,
    NoValuesError as NoValuesError,
    OptionError as OptionError,
    OutdatedFrameworkError as OutdatedFrameworkError,
    RangeError as RangeError,
    UnknownFrameworkError as UnknownFrameworkError,
)
from bridge._lowering.user import (
    register_lowering as register_lowering,
    torch_operator as torch_operator,
)

if _typing.TYPE_CHECKING:
    from bridge import testing as testing

__version__ = "0.1.0"

# What users see is in `bridge`: in tracebacks, in `help()` and in pickles.
for _public in [*globals().values()]:
    if getattr(_public, "__module__", "").startswith("bridge."):
        _public.__module__ = __name__


def __getattr__(name: str) -> object:
    if name == "testing":  # which programs do not need
        return _importlib.import_module("bridge.testing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
