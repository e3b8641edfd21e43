"""Results that torch records no gradient of, such as new running statistics.

NOTE [running statistics]
A batch norm refuses running statistics that a gradient is taken by, and writes to them without
recording it: the new ones carry no gradient, whatever they are made of. A caller that took them for
a function of what they were would differentiate the next batch norm by them, which is refused. So
the function is run once as in training, with gradients by all arguments but those that an operator
refuses, and the results that have none then never have one.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._sources.torch.autodiff.gradient_flow import is_differentiable
from bridge._sources.torch.state.escaped_values import EscapeObserver

_REFUSED = re.compile(r"is not differentiable with respect to argument '(\w+)'")


class TrainingRun:
    """A run of a function, if `training` with gradients by all arguments.

    NOTE [running statistics].

    Attributes:
        unrecorded: Positions of the results without a gradient, once it has run; none where values
            have left torch, since these may depend on arguments all the same.
    """

    unrecorded: frozenset[int] = frozenset()

    def __init__(self, *, training: bool) -> None:
        self._training = training

    def __call__(
        self, fun: Callable[..., Sequence[torch.Tensor]], xs: Sequence[torch.Tensor]
    ) -> Sequence[torch.Tensor]:
        """The results of `fun`."""
        if not self._training:
            return fun(*xs)
        with _RefusedArguments(), EscapeObserver() as self._leaving:
            return fun(*[x.requires_grad_(is_differentiable(x)) for x in xs])

    def look(self, outputs: Sequence[torch.Tensor]) -> None:
        """Note which of the results have no gradient, where nothing else notes that it is asked."""
        if self._training and not self._leaving.left:
            self.unrecorded = frozenset(
                i for i, y in enumerate(outputs) if is_differentiable(y) and not y.requires_grad
            )


class _RefusedArguments(TorchFunctionMode):
    """Takes gradients from the arguments by which an operator has none, and calls it again."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, which raises before it has written to anything."""
        kwargs = kwargs or {}
        while True:
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                refused = _REFUSED.search(str(error))
                x = refused and _argument(func, refused[1], args, kwargs)
                if not isinstance(x, torch.Tensor) or x.is_leaf or not x.requires_grad:
                    raise
                x.detach_()  # a copy of an argument, here and in what writes to it


def _argument(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The argument of this name, if it can be told."""
    try:
        return inspect.signature(func).bind_partial(*args, **kwargs).arguments.get(name)
    except (TypeError, ValueError):
        packet = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if packet is None:
        return None
    schema = getattr(packet, packet.overloads()[0])._schema
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}.get(name)


def recorded_dependencies(function: Any) -> Callable[[], Sequence[frozenset[int]]] | None:
    """For each result of `function` the arguments that it may have a derivative by, if known."""
    program, unrecorded = function.program, function.unrecorded
    if not unrecorded:
        return program.dependencies if program else None
    everything = frozenset(range(len(function.primals)))

    def dependencies() -> list[frozenset[int]]:
        reach = program.dependencies() if program else [everything] * len(function.outputs)
        return [frozenset() if i in unrecorded else x for i, x in enumerate(reach)]

    return dependencies
