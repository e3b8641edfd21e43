"""Pure functions together with the parameters and buffers that they are applied to."""

from collections.abc import Callable, Collection
from typing import Any

from bridge import _registry
from bridge._calls.bridged_function import BridgedFunction
from bridge._calls.explanation import Explanation
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
            for random numbers, in evaluation too. A parameter `training`, `train` or `is_training`
            gets True while the module is in training; `deterministic`, `inference` and
            `use_running_average` get the contrary.
        params: A pytree of the arrays that are trained.
        buffers: A pytree of other arrays, such as running statistics.

    Attributes:
        apply: The function. That of a module of torch or MLX takes and returns buffers, always. It
            does not change the module, and runs in training or evaluation mode, as the module is
            set when it is called.
        params: The parameters; those of a module by name, sharing its memory where possible.
        buffers: The buffers, likewise.
        module: The module of torch or MLX that it was made of, or None.

    It is no module of the framework that calls it. A model of Flax or Equinox that is trained with
    it contains `to_nnx()` or `to_equinox()`. In a tree that is transformed, the parameters of the
    bare object would be lost, so reading them there is an error. Flax linen looks into no such
    object: declare its parameters, `self.param("net", lambda key: net.params)`, and pass these to
    `apply`.

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
    stand_in: Any = None
    _original: "Functional | None" = None

    def __init__(self, apply: Callable[..., Any], params: Any, buffers: Any = None) -> None:
        self.apply, self._params, self.buffers = apply, params, buffers
        _registry.watch_in_trees(type(self))

    @property
    def params(self) -> Any:
        """The parameters."""
        if self._original is not None:
            raise ArgumentError(
                f"{self!r} is in a tree that JAX, Equinox or Flax transforms, but its parameters "
                "are no leaves of that tree: they would have no gradients, and stay as they are. "
                "Store `net.to_equinox()` or `net.to_nnx()` instead; or the parameters beside it, "
                "and pass these to `net.apply`. If they are not to be trained, make the field "
                "static."
            )
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        self._params = params

    @property
    def original(self) -> "Functional":
        """Itself, or what a transformation of a tree took it from."""
        return self if self._original is None else self._original

    def as_transformed(self, stand_in: Any) -> "Functional":
        """Return it as it is in a tree that was transformed, without its parameters.

        The leaf that stood for them has become `stand_in`.
        """
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _original=self, stand_in=stand_in)
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _registry.watch_in_trees(type(self))  # another process may have made none before

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._original is not None:
            return type(self).as_transformed, (self._original, self.stand_in)
        return super().__reduce_ex__(protocol)

    def to_nnx(self, *, rngs: Any = None) -> Any:
        """Make a module of Flax NNX.

        Parameters are of `nnx.Param`, buffers of another type, so that optimizers leave them alone,
        as are parameters that require no gradient. They have the names of the original, in modules
        nested like its own. Buffers change as calls change them. Modes are
        those of the module when it is made, then its own.

        Args:
            rngs: Streams for the random numbers that it draws, `nnx.Rngs`, of which it takes
                `dropout` or else the default one.

        Returns:
            An `nnx.Module` with arrays of its own. `model(*args, method=None, rngs=None)` calls the
            original, or another method of it by name. `to_torch(model)`, or `to_mlx(model)`, gives
            a module like the original.

        Raises:
            MissingFrameworkError: If Flax is not installed.
            ArgumentError: When called, if it draws random numbers and has no streams.

        Example:
            >>> import jax.numpy as jnp, optax, torch
            >>> from bridge import torch2jax
            >>> from flax import nnx
            >>> model = torch2jax(torch.nn.Linear(3, 2)).to_nnx()
            >>> optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
            >>> gradients = nnx.grad(lambda model: model(jnp.ones((1, 3))).sum())(model)
            >>> _ = optimizer.update(model, gradients)
            >>> gradients["bias"][...]
            Array([1., 1.], dtype=float32)
        """
        return self._make_view("nnx", rngs=rngs)

    def to_equinox(self, *, changing: Collection[str] | None = None) -> Any:
        """Make a module of Equinox.

        Parameters are leaves, under the names of the original in modules nested like its own:
        `model.layers[0].weight`. One that requires no gradient is held as integers, which nothing
        trains; its `.value`, put in its place by `eqx.tree_at`, is trained. So are buffers that do
        not change, as positions and masks. Modes are those of the module when it is made, then its
        own, which `eqx.nn.inference_mode` changes.

        Args:
            changing: The names of the buffers that calls change. By default, those are the running
                statistics of normalizations. With `()`, a model that is only used in evaluation
                needs no state.

        Returns:
            An `eqx.Module` with arrays of its own. Without buffers that change `model(*args,
            key=None) -> output`. With any, which are the state that `eqx.nn.make_with_state`
            separates, `model(*args, state, key=None) -> (output, state)`, in evaluation too.
            `method=` names another method to call. `to_torch(model)`, or `to_mlx(model)`, gives a
            module like the original; with a state, `to_torch(model.with_state(state))`.

        Raises:
            MissingFrameworkError: If Equinox is not installed.
            ArgumentError: If there are no buffers of the names `changing`. When called, if it draws
                random numbers without `key=`, lacks a state, or changes another buffer.

        Example:
            >>> import equinox as eqx, jax.numpy as jnp, torch
            >>> from bridge import torch2jax
            >>> model = torch2jax(torch.nn.Linear(3, 2)).to_equinox()
            >>> gradients = eqx.filter_grad(lambda model: model(jnp.ones((1, 3))).sum())(model)
            >>> gradients.bias
            Array([1., 1.], dtype=float32)
            >>> net = torch2jax(torch.nn.BatchNorm1d(3))
            >>> norm, state = eqx.nn.make_with_state(net.to_equinox)()
            >>> output, state = norm(jnp.ones((4, 3)), state)
        """
        return self._make_view("equinox", changing=changing)

    def _make_view(self, kind: str, **options: Any) -> Any:
        from bridge._calls import module_program  # which needs this class

        target: Any = _registry.target("jax")
        return target.make_view(kind, *module_program.take_apart(self), **options)

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
        self.module, self._params, self.buffers = module, params, buffers
        self.pure, self.function, self._rewrap = pure, function, rewrap
        _registry.watch_in_trees(type(self))

    def __reduce__(self) -> Any:
        # The pure function refers to this very module, so another process has to make its own.
        return self._rewrap, (self.module,), {"_params": self.params, "buffers": self.buffers}

    def __repr__(self) -> str:
        return f"<{self.function!r} of {len(self._params)} parameters, {len(self.buffers)} buffers>"

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
        variant = self.pure.read_modes(), None
        output, changed = self.function(variant, params, buffers, *args, **kwargs)
        return output, {**buffers, **changed}

    def explain(self, params: Any, buffers: Any, *args: Any, **kwargs: Any) -> Explanation:
        """Explain what a call of `apply` is, without making it: `BridgedFunction.explain`.

        Args:
            params: The parameters by name.
            buffers: The buffers by name.
            *args: Positional arguments of the module.
            **kwargs: Keyword arguments of the module.
        """
        variant = self.pure.read_modes(), None
        return self.function.explain(variant, params, buffers, *args, **kwargs)
