"""What wrapping a function needs to know of NumPy, which only the check of options imports."""

from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.function_protocols import StageableFunction


class NumpyOutline:
    """The options of functions on NumPy arrays."""

    saves_programs = False
    supports_rng = False

    def check_options(self, **options: Any) -> None:
        """Raise for options that cannot be."""
        from bridge._sources.numpy.settings import Settings

        Settings(**options).check()

    def check_device_name(self, device: str) -> None:
        """Raise unless `device` is the host."""
        if device != "cpu":
            raise OptionError(
                f'device={device!r} is no device of NumPy. Pass "cpu", which copies what is '
                "elsewhere, or leave it out."
            )

    def passes_rng(self, fn: Any) -> bool:
        """Return True: a parameter `rng` gets a generator."""
        del fn
        return True

    def is_leaf(self, x: Any) -> bool:
        """Return True: a callable object is a function here."""
        del x
        return True

    def has_threads(self) -> bool:
        """Return False: NumPy has none that a fork would lose."""
        return False

    def compiler_check(self) -> Callable[[], bool]:
        """Return a function that returns False: nothing is called from NumPy."""
        return lambda: False

    def call_in_compiled_code(self, function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Raise: no compiler reads Python here."""
        raise NotImplementedError


OUTLINE = NumpyOutline()
