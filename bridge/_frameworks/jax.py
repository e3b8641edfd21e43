"""What wrapping a function needs to know of JAX, which it does not import."""

import sys
import types
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.pure_module import PureModule
from bridge._core.spec import is_device_name
from bridge._frameworks.common import CommonOutline, check_residuals
from bridge._frameworks.upstream.jax import has_backends

_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


class JaxOutline(CommonOutline):
    """The options of functions of JAX."""

    saves_programs = True
    supports_rng = False

    def check_options(
        self, *, residuals: str, jit: bool = True, lower: str | None = None, **_: Any
    ) -> None:
        """Raise unless the options have known values that go together."""
        check_residuals(residuals)
        if lower not in (None, "aten"):
            raise OptionError(f'lower={lower!r} is neither None nor "aten".')
        if lower and not jit:
            raise OptionError(
                f'lower="{lower}" makes code of the trace of a function, and jit=False makes no '
                "trace. Leave one of them out."
            )

    def check_device_name(self, device: str) -> None:
        """Raise unless `device` is the host or a CUDA device."""
        if not is_device_name(device):
            raise OptionError(
                f'device={device!r} is no device that JAX computes on here. Pass "cpu", "cuda" or '
                'one of several, "cuda:1", or leave it out to compute where the arguments are.'
            )

    def passes_rng(self, fn: Any) -> bool:
        """Return True for a module; to functions `rng` is an argument like others."""
        return isinstance(fn, PureModule)

    def is_leaf(self, x: Any) -> bool:
        """Return True for a function, and whatever else JAX does not look into."""
        jax = sys.modules.get("jax")
        return jax is None or isinstance(x, _FUNCTIONS) or jax.tree_util.all_leaves([x])

    def has_threads(self) -> bool:
        """Return True if JAX has started a backend, with its threads, in this process."""
        return has_backends()


OUTLINE = JaxOutline()
