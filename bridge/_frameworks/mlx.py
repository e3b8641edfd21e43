"""What wrapping a function needs to know of MLX, which it does not import."""

import sys
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.function_protocols import StageableFunction


class MlxOutline:
    """The options and functions of MLX."""

    saves_programs = False
    supports_rng = True

    def check_options(self, *, residuals: str, compile: bool) -> None:
        """Raise unless `residuals` is one of the three strategies, and possible with `compile`."""
        if residuals not in ("auto", "save", "recompute"):
            raise OptionError(f'residuals={residuals!r} is neither "auto", "save" nor "recompute".')
        if compile and residuals == "save":
            raise OptionError(
                'residuals="save" keeps a graph for the backward pass, and compile=True fuses it '
                "with that of the forward pass. Leave out one of them."
            )

    def check_device_name(self, device: str) -> None:
        """Raise unless `device` is the host."""
        if device != "cpu":
            raise OptionError(
                f"device={device!r} is no device whose memory MLX takes arguments from. Pass "
                '"cpu", which copies what is elsewhere, or leave it out. Where MLX computes is '
                "decided by mx.set_default_device."
            )

    def passes_rng(self, fn: Any) -> bool:
        """Return False: the generator of MLX is seeded."""
        del fn
        return False

    def is_leaf(self, x: Any) -> bool:
        """Return True: only modules of MLX hold parameters of MLX."""
        del x
        return True

    def has_threads(self) -> bool:
        """Return True if MLX is imported: each of its streams has a thread."""
        return "mlx.core" in sys.modules

    def compiler_check(self) -> Callable[[], bool]:
        """Return a function that returns False: MLX runs the code that it compiles."""
        return lambda: False

    def call_in_compiled_code(self, function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Raise: no compiler reads Python here."""
        raise NotImplementedError


OUTLINE = MlxOutline()
