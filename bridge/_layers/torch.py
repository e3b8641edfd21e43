"""Functions of tensors as layers of torch."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bridge import _registry
from bridge._calls.bridged_function import BridgedFunction
from bridge._core import pytree
from bridge._core.errors import ArgumentError, OptionError

Initializer = Callable[[torch.Tensor], Any]
Shape = int | Sequence[int]


class FunctionLayer(torch.nn.Module):
    """A function of tensors as a layer, with some of its arguments as parameters.

    Parameters have the names of the arguments. Axes of inputs in front of those of an example are a
    batch, any number of them, as in `torch.nn.Linear`; a function that `jax2torch` or another
    wrapper made is mapped over it by its own framework, any other one by `torch.vmap`. Real results
    have the dtype of the first floating-point input.

    Args:
        fn: A function `(*inputs, **weights)` of tensors, for one example.
        weights: For each parameter its name and shape, `()` for a scalar, or a tensor to start
            from.
        init: What fills the parameters in place, one of `torch.nn.init` for all of them, or a
            mapping by name, where a tensor is the value itself. By default they are uniform between
            0 and 2 pi.
        in_ndim: The number of axes of an example, for all inputs or for each.
        dtype: The dtype of the parameters that are not given as tensors.
        device: Their device.

    Raises:
        ArgumentError: For a name in `weights` or `init` that is no parameter of `fn`, a parameter
            of `fn` without a value, or a tensor of another shape.

    Example:
        >>> import jax.numpy as jnp, torch
        >>> from bridge import jax2torch
        >>> from bridge.nn import FunctionLayer
        >>> layer = FunctionLayer(jax2torch(lambda x, w: jnp.sin(w @ x)), {"w": (2, 3)})
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        weights: Mapping[str, Shape | torch.Tensor],
        *,
        init: Initializer | Mapping[str, Initializer | torch.Tensor] | None = None,
        in_ndim: Shape = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self._in_ndim = in_ndim
        # In code that Dynamo reads, no bridged function can be made; and that of torch 2.11 takes
        # an attribute with `__get__` for a method, but not one in a tuple.
        self._functions = (fn, fn.vmap() if isinstance(fn, BridgedFunction) else None)
        _check_names(fn, weights)
        self._weight_names = tuple(weights)
        for name, start in weights.items():
            if isinstance(start, torch.Tensor):
                data = torch.empty_like(start, memory_format=torch.contiguous_format)
            else:
                data = torch.empty(_as_tuple(start), dtype=dtype, device=device)
            self.register_parameter(name, torch.nn.Parameter(data))
        self._init = _initializers(weights, init)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the parameters anew, those given as tensors with these."""
        with torch.no_grad():
            for name, initialize in self._init.items():
                parameter = getattr(self, name)
                if isinstance(initialize, torch.Tensor):
                    parameter.copy_(initialize)
                else:
                    initialize(parameter)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Call the function for each example of the batch."""
        weights = {name: getattr(self, name) for name in self._weight_names}
        fn, batched_fn = self._functions
        batch, examples = self._flatten_batch(inputs)
        if not batch:
            results = fn(*inputs, **weights)
        elif batched_fn is not None:
            results = batched_fn(*examples, **weights)
        else:
            call = torch.vmap(lambda *xs: fn(*xs, **weights), randomness="different")
            results = call(*examples)
        dtype = next((x.dtype for x in inputs if x.is_floating_point()), None)

        def finish(y: torch.Tensor) -> torch.Tensor:
            y = y.reshape(*batch, *y.shape[1:]) if batch else y
            return y.to(dtype) if dtype and y.is_floating_point() else y

        return _map_tensors(finish, results)

    def _flatten_batch(
        self, inputs: Sequence[torch.Tensor]
    ) -> tuple[tuple[int, ...], list[torch.Tensor]]:
        """Return the shape of the batch, and the inputs with one axis for all of it."""
        ndims = [self._in_ndim] * len(inputs) if isinstance(self._in_ndim, int) else self._in_ndim
        if len(ndims) != len(inputs):
            raise ArgumentError(
                f"the layer got {len(inputs)} inputs, and in_ndim={self._in_ndim} is for "
                f"{len(ndims)}."
            )
        for i, (x, ndim) in enumerate(zip(inputs, ndims, strict=True)):
            if x.ndim < ndim:
                raise ArgumentError(
                    f"input {i} of the layer has shape {tuple(x.shape)}, and an example has "
                    f"{ndim} axes: in_ndim={self._in_ndim}."
                )
        shapes = [x.shape[: x.ndim - ndim] for x, ndim in zip(inputs, ndims, strict=True)]
        batch = tuple(torch.broadcast_shapes(*shapes)) if shapes else ()
        examples = [
            x.expand(*batch, *x.shape[x.ndim - ndim :]).reshape(-1, *x.shape[x.ndim - ndim :])
            for x, ndim in zip(inputs, ndims, strict=True)
        ]
        return batch, examples

    def extra_repr(self) -> str:
        """Return the function, and the shapes of the parameters."""
        shapes = [f"{name}={tuple(getattr(self, name).shape)}" for name in self._weight_names]
        return ", ".join([repr(self._functions[0]), *shapes])


FunctionLayer.__module__ = "bridge.nn"


def _map_tensors(fn: Callable[[torch.Tensor], Any], tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
    return pytree.unflatten(structure, [fn(y) if torch.is_tensor(y) else y for y in leaves])


def _as_tuple(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _check_names(fn: Callable[..., Any], weights: Mapping[str, Any]) -> None:
    """Raise if a weight is no parameter of `fn`, or a parameter by keyword has no weight."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return
    kinds = inspect.Parameter
    takes_any = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in weights if name not in parameters and not takes_any]
    missing = [
        name
        for name, p in parameters.items()
        if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty and name not in weights
        if name != "rng"
    ]
    if unknown or missing:
        problem = f"names {unknown}, no parameters" if unknown else f"lacks {missing}, parameters"
        raise ArgumentError(
            f"weights= {problem} of the function: it has the parameters {[*parameters]}, and "
            f"weights= has {[*weights]}."
        )


def _initializers(weights: Mapping[str, Any], init: Any) -> dict[str, Initializer | torch.Tensor]:
    """Return what each parameter starts from."""
    by_name: Mapping[str, Any] = init if isinstance(init, Mapping) else {}
    unknown = [name for name in by_name if name not in weights]
    starts = {name: x for name, x in weights.items() if isinstance(x, torch.Tensor)}
    others = [name for name in weights if name not in by_name and name not in starts]
    missing = others if isinstance(init, Mapping) else []
    if unknown or missing:
        problem = f"names {unknown}, no parameters" if unknown else f"lacks {missing}, parameters"
        raise OptionError(f"init= {problem} of the layer, which are {[*weights]}.")
    default = init if callable(init) else _uniform_angles
    initializers: dict[str, Any] = {}
    for name, start in weights.items():
        chosen = by_name.get(name, starts.get(name, default))
        if isinstance(chosen, torch.Tensor):
            shape = tuple(start.shape) if name in starts else _as_tuple(start)
            if tuple(chosen.shape) != shape:
                raise OptionError(
                    f"init= has a tensor of shape {tuple(chosen.shape)} for {name}, whose shape is "
                    f"{shape}."
                )
            chosen = chosen.detach().clone()
        initializers[name] = chosen
    return initializers


def _uniform_angles(parameter: torch.Tensor) -> None:
    parameter.uniform_(0, 2 * math.pi)
