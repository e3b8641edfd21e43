"""What most frameworks have in common where a function is wrapped."""

from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.function_protocols import StageableFunction


class CommonOutline:
    """A framework whose answers are those of most; the base of what implements `Outline`."""

    saves_programs = False
    supports_rng = True

    def passes_rng(self, fn: Any) -> bool:
        """Return False: random numbers come from a generator, which is seeded."""
        del fn
        return False

    def is_leaf(self, x: Any) -> bool:
        """Return True: a function is code, and modules alone hold arrays."""
        del x
        return True

    def has_threads(self) -> bool:
        """Return False: there are no threads that a forked child would lack."""
        return False

    def compiler_check(self) -> Callable[[], bool]:
        """Return a function that returns False: no compiler reads the code of callers."""
        return lambda: False

    @staticmethod
    def call_in_compiled_code(function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Raise: no compiler reads the code of callers."""
        raise NotImplementedError


def check_residuals(residuals: str) -> None:
    """Raise unless `residuals` names a strategy."""
    if residuals not in ("auto", "save", "recompute"):
        raise OptionError(f'residuals={residuals!r} is neither "auto", "save" nor "recompute".')
