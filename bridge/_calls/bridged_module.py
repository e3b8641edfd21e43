"""A module of one framework as values of another, and a pure function of them."""

from collections.abc import Callable, Hashable
from typing import Any

from bridge._calls.bridged_function import BridgedFunction
from bridge._core.errors import ArgumentError
from bridge._core.tracebacks import shortens_tracebacks


class BridgedModule:
    """A module as the parameters and buffers it has, and a pure function of them.

    Attributes:
        module: The module itself, whose own parameters and buffers `apply` leaves alone; it is
            applied in training or in evaluation as it is set when `apply` is called.
        params: Its parameters by name, over the memory of the module where that can be shared.
        buffers: Its buffers by name, likewise.

    It is no part of a pytree, and no module of the framework that it is brought to: a model that
    holds one holds `params` itself, where its optimizer finds them.
    """

    def __init__(
        self,
        module: Any,
        function: BridgedFunction,
        modes: Callable[[], Hashable],
        params: dict[str, Any],
        buffers: dict[str, Any],
        *,
        again: Callable[[Any], Any],
    ) -> None:
        self.module, self.params, self.buffers = module, params, buffers
        self._function, self._modes, self._again = function, modes, again

    def __reduce__(self) -> Any:
        # The pure function is of this very module, so another process makes one of its own.
        return self._again, (self.module,), {"params": self.params, "buffers": self.buffers}

    def __repr__(self) -> str:
        return f"<{self._function!r} of {len(self.params)} parameters, {len(self.buffers)} buffers>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: which parameters a module is applied with has to be said."""
        del args, kwargs
        raise ArgumentError(
            f"{type(self.module).__name__} is called with its parameters and buffers, which are "
            "arguments like others. Call `net.apply(net.params, net.buffers, *args)`: it returns "
            "the output and the new buffers."
        )

    @shortens_tracebacks
    def apply(self, params: Any, buffers: Any, *args: Any, **kwargs: Any) -> Any:
        """The output of the module and its new buffers, as a tuple.

        Args:
            params: Parameters by name.
            buffers: Buffers by name, such as running statistics.
            *args: What the module is called with.
            **kwargs: Likewise; `rng` is a key for the random numbers that the module draws.
        """
        return self._function(self._modes(), params, buffers, *args, **kwargs)
