"""What wrapping a function needs to know of PyTorch, which it does not import.

NOTE [imports that Dynamo reads]
A bridged function may be called for the first time in code that Dynamo reads. Dynamo runs an import
statement as Python does, but cannot read the import machinery. And it compiles the code again when
an attribute that it has read is another one later. So what it reads here never changes.
"""

import sys
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.function_protocols import StageableFunction
from bridge._core.spec import is_device_name
from bridge._frameworks.common import CommonOutline

_AS_THEY_ARE = "as they are"


class TorchOutline(CommonOutline):
    """The options of functions of PyTorch, and the compiler of callers in PyTorch."""

    saves_programs = True

    def check_options(
        self, *, capture: str, lower: str = "ffi", integers: str = _AS_THEY_ARE, **_: Any
    ) -> None:
        """Raise unless the options have known values that go together."""
        if capture not in ("auto", "require", "never"):
            raise OptionError(f'capture={capture!r} is neither "auto", "require" nor "never".')
        if lower not in ("ffi", "xla"):
            raise OptionError(f'lower={lower!r} is neither "ffi" nor "xla".')
        if integers not in (_AS_THEY_ARE, "int64"):
            raise OptionError(f'integers={integers!r} is neither "{_AS_THEY_ARE}" nor "int64".')
        if lower == "xla" and capture == "never":
            raise OptionError(
                'lower="xla" compiles the graph of a function, and capture="never" makes none. '
                "Leave one of them out."
            )

    def check_device_name(self, device: str) -> None:
        """Raise unless `device` is the host or a CUDA device."""
        if not is_device_name(device):
            raise OptionError(
                f'device={device!r} is no device that torch computes on here. Pass "cpu", "cuda" '
                'or one of several, "cuda:1", or leave it out to compute where the arguments are.'
            )

    def compiler_check(self) -> Callable[[], bool]:
        """Return the function that returns True while Dynamo reads its caller."""
        compiler = getattr(sys.modules.get("torch"), "compiler", None)
        return getattr(compiler, "is_dynamo_compiling", _is_dynamo_compiling)

    @staticmethod
    def call_in_compiled_code(function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Call `function` in code that Dynamo reads: NOTE [imports that Dynamo reads]."""
        from bridge._targets.torch import dynamo

        return dynamo.call(function, args, kwargs)


def _is_dynamo_compiling() -> bool:
    """Return True while Dynamo reads the caller: NOTE [imports that Dynamo reads]."""
    import torch

    return torch.compiler.is_dynamo_compiling()


OUTLINE = TorchOutline()
