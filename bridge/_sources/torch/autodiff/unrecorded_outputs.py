"""Outputs that torch records no gradient of, such as new running statistics.

NOTE [running statistics]
A batch norm refuses running statistics that require a gradient, and does not record its writes to
them: the new statistics never carry a gradient. A caller that expected one would differentiate the
next batch norm by its running statistics, and that is refused. So the function runs once as in
training: all arguments require gradients, except those that an operator refuses. Outputs without a
gradient in this run are taken to never have one.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.graphs import argument_names
from bridge._sources.torch.autodiff.gradient_flow import is_differentiable
from bridge._sources.torch.state.escaped_values import EscapeObserver

_REFUSED = re.compile(r"is not differentiable with respect to argument '(\w+)'")


class TrainingRun:
    """A run of a function, in which all arguments require gradients if `training`.

    NOTE [running statistics].

    Attributes:
        unrecorded: Positions of the outputs without a gradient, known after the run; none if values
            left torch, since outputs may then depend on arguments all the same.
    """

    unrecorded: frozenset[int] = frozenset()

    def __init__(self, *, training: bool) -> None:
        self._training = training

    def __call__(
        self, fun: Callable[..., Sequence[torch.Tensor]], xs: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """Call `fun`."""
        if not self._training:
            return fun(*xs)
        with _RefusedArguments(), EscapeObserver() as self._escapes:
            return fun(*[x.requires_grad_(is_differentiable(x)) for x in xs])

    def look(self, outputs: Sequence[torch.Tensor]) -> None:
        """Note which outputs have no gradient.

        It reads `requires_grad`, so it is called outside of observers, which would note that.
        """
        if self._training and not self._escapes.left:
            self.unrecorded = frozenset(
                i for i, y in enumerate(outputs) if is_differentiable(y) and not y.requires_grad
            )


class _RefusedArguments(TorchFunctionMode):
    """Detaches arguments whose gradient an operator refuses, and calls the operator again."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` until it refuses no more arguments; it refuses before it writes to any."""
        kwargs = kwargs or {}
        while True:
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                refused = _REFUSED.search(str(error))
                x = refused and _argument(func, refused[1], args, kwargs)
                if not isinstance(x, torch.Tensor) or x.is_leaf or not x.requires_grad:
                    raise
                x.detach_()  # a copy of an argument of the user


def _argument(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the argument of this name, if the signature of `func` is known."""
    try:
        return inspect.signature(func).bind_partial(*args, **kwargs).arguments.get(name)
    except (TypeError, ValueError):
        packet = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if packet is None:
        return None
    names = argument_names(getattr(packet, packet.overloads()[0]))
    return {**dict(zip(names, args, strict=False)), **kwargs}.get(name)


def gradient_dependencies(function: Any) -> Callable[[], Sequence[frozenset[int]]] | None:
    """Return the `dependencies` of the Op of `function`, if known: none of unrecorded outputs."""
    program, unrecorded = function.program, function.unrecorded
    if not unrecorded:
        return program.dependencies if program else None
    all_positions = frozenset(range(len(function.primals)))

    def dependencies() -> list[frozenset[int]]:
        known = program.dependencies() if program else [all_positions] * len(function.outputs)
        return [frozenset() if i in unrecorded else x for i, x in enumerate(known)]

    return dependencies
