"""A module of one framework, for callers of another."""

from collections.abc import Callable, Hashable
from typing import Any

from bridge._calls.bridged_function import BridgedFunction
from bridge._core.errors import ArgumentError
from bridge._core.tracebacks import shortens_tracebacks


class BridgedModule:
    """The parameters and buffers of a module, and a pure function of them.

    Attributes:
        module: The module itself. `apply` does not change its own parameters and buffers, and runs
            in training or evaluation mode, as the module is set when `apply` is called.
        params: Its parameters by name. They share the memory of the module where possible.
        buffers: Its buffers by name, likewise.

    It is neither a pytree nor a module of the framework that calls it: a model that contains it
    stores `params` as its own, so that its optimizer finds them.
    """

    def __init__(
        self,
        module: Any,
        function: BridgedFunction,
        modes: Callable[[], Hashable],
        params: dict[str, Any],
        buffers: dict[str, Any],
        *,
        rewrap: Callable[[Any], Any],
    ) -> None:
        self.module, self.params, self.buffers = module, params, buffers
        self._function, self._modes, self._rewrap = function, modes, rewrap

    def __reduce__(self) -> Any:
        # The pure function refers to this very module, so another process has to make its own.
        return self._rewrap, (self.module,), {"params": self.params, "buffers": self.buffers}

    def __repr__(self) -> str:
        return f"<{self._function!r} of {len(self.params)} parameters, {len(self.buffers)} buffers>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise, because the parameters must be passed: `apply(params, buffers, *args)`."""
        del args, kwargs
        raise ArgumentError(
            f"{type(self.module).__name__} takes its parameters and buffers as arguments. Call "
            "`net.apply(net.params, net.buffers, *args)`: it returns the output and the new "
            "buffers."
        )

    @shortens_tracebacks
    def apply(self, params: Any, buffers: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the module; return its output and its new buffers, as a tuple.

        Args:
            params: The parameters by name.
            buffers: The buffers by name, such as running statistics.
            *args: Positional arguments of the module.
            **kwargs: Keyword arguments of the module; `rng` is a key for the random numbers that
                it draws.
        """
        return self._function(self._modes(), params, buffers, *args, **kwargs)
