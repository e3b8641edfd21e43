"""Pure functions together with the parameters and buffers that they are applied to."""

from collections.abc import Callable
from typing import Any

from bridge._calls.bridged_function import BridgedFunction
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import PureModule
from bridge._core.tracebacks import shortens_tracebacks


class Functional:
    """A pure function with the parameters and buffers that it is applied to.

    It is what a module of torch or MLX is in JAX, and the way to bring a function with weights to
    torch or MLX as a module: `jax2torch(Functional(apply, params))`.

    Args:
        apply: Without buffers a function `apply(params, *args) -> output`, with them
            `apply(params, buffers, *args) -> (output, new_buffers)`. A parameter `rng` gets a key
            for random numbers. A parameter `training`, `train` or `is_training` gets True while the
            module is in training; `deterministic`, `inference` and `use_running_average` get the
            contrary.
        params: A pytree of the arrays that are trained.
        buffers: A pytree of other arrays, such as running statistics.

    Attributes:
        apply: The function. That of a module of torch or MLX takes and returns buffers, always. It
            does not change the module, and runs in training or evaluation mode, as the module is
            set when it is called.
        params: The parameters; those of a module by name, sharing its memory where possible.
        buffers: The buffers, likewise.
        module: The module of torch or MLX that it was made of, or None.

    It is neither a pytree nor a module of the framework that calls it: a model that contains it
    stores `params` as its own, so that its optimizer finds them.

    Example:
        >>> import jax.numpy as jnp, torch
        >>> from bridge import Functional, jax2torch
        >>> scale = Functional(lambda params, x: params["scale"] * x, {"scale": jnp.array(2.0)})
        >>> layer = jax2torch(scale)
        >>> layer(torch.ones(2)).detach()
        tensor([2., 2.])
        >>> [name for name, _ in layer.named_parameters()]
        ['scale']
    """

    module: Any = None

    def __init__(self, apply: Callable[..., Any], params: Any, buffers: Any = None) -> None:
        self.apply, self.params, self.buffers = apply, params, buffers

    def __repr__(self) -> str:
        return f"Functional({self.apply!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise, because the parameters must be passed: `apply(params, *args)`."""
        del args, kwargs
        buffers = "" if self.buffers is None else "net.buffers, "
        raise ArgumentError(
            f"{self!r} takes its parameters as an argument. Call "
            f"`net.apply(net.params, {buffers}*args)`."
        )


class BridgedModule(Functional):
    """A module of one framework as a pure function for callers of another."""

    def __init__(
        self,
        module: Any,
        pure: PureModule,
        function: BridgedFunction,
        params: dict[str, Any],
        buffers: dict[str, Any],
        *,
        rewrap: Callable[[Any], Any],
    ) -> None:
        self.module, self.params, self.buffers = module, params, buffers
        self.pure, self.function, self._rewrap = pure, function, rewrap

    def __reduce__(self) -> Any:
        # The pure function refers to this very module, so another process has to make its own.
        return self._rewrap, (self.module,), {"params": self.params, "buffers": self.buffers}

    def __repr__(self) -> str:
        return f"<{self.function!r} of {len(self.params)} parameters, {len(self.buffers)} buffers>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise, because the parameters must be passed: `apply(params, buffers, *args)`."""
        del args, kwargs
        raise ArgumentError(
            f"{type(self.module).__name__} takes its parameters and buffers as arguments. Call "
            "`net.apply(net.params, net.buffers, *args)`: it returns the output and the new "
            "buffers."
        )

    @shortens_tracebacks
    def apply(  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
        self, params: Any, buffers: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Call the module; return its output and its new buffers, as a tuple.

        Args:
            params: The parameters by name.
            buffers: The buffers by name, such as running statistics.
            *args: Positional arguments of the module.
            **kwargs: Keyword arguments of the module; `rng` is a key for the random numbers that
                it draws.
        """
        return self.function((self.pure.read_modes(), None), params, buffers, *args, **kwargs)
