"""What wrapping a function needs to know of MLX, which it does not import."""

import sys

from bridge._core.errors import OptionError
from bridge._frameworks.common import CommonOutline, check_residuals


class MlxOutline(CommonOutline):
    """The options of functions of MLX."""

    def check_options(self, *, residuals: str, compile: bool) -> None:
        """Raise unless `residuals` is one of the three strategies, and possible with `compile`."""
        check_residuals(residuals)
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

    def has_threads(self) -> bool:
        """Return True if MLX is imported: each of its streams has a thread."""
        return "mlx.core" in sys.modules


OUTLINE = MlxOutline()
