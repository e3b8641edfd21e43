"""What wrapping a function needs to know of NumPy, which only the check of options imports."""

from typing import Any

from bridge._core.errors import OptionError
from bridge._frameworks.common import CommonOutline


class NumpyOutline(CommonOutline):
    """The options of functions on NumPy arrays."""

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


OUTLINE = NumpyOutline()
