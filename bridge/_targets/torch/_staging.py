"""Bridged functions in graphs that torch records: compiled, exported, or by fake tensors.

NOTE [how a call is staged]
A graph cannot hold JAX. What it holds instead is the operator `bridge::call`, with the name of the
bridged function and its arguments other than tensors as strings: they mean the same in another
process, so an exported program runs wherever the function can be imported. The operator's fake
asks JAX for shapes only. Dynamo does not look into a bridged function: it is told to trace it by
running it, with fake tensors. That registration imports all of Dynamo, so it is done when Dynamo
is at work, by a function that it runs for the sake of its constant result.
"""

import base64
import importlib
import itertools
import pickle
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch import dtype_name
from bridge._errors import ArgumentError
from bridge._names import find, place
from bridge._protocols import Staged
from bridge._spec import ArraySpec
from bridge._targets.torch._internals import hint, named_axes, sizes

_functions: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_counter = itertools.count()


class Hole:
    """Where a tensor stands in the arguments."""


def prepare(function: Any) -> None:
    """Let Dynamo trace `function` by running it: NOTE [how a call is staged]."""
    if function.staged is None:
        decorators = importlib.import_module("torch._dynamo")
        function.staged = decorators.nonstrict_trace(
            lambda args, kwargs: stage(function, args, kwargs)
        )


prepare._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def stage(function: Staged, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The results of a call that is recorded as an operator."""
    leaves, structure = function.flatten(args, kwargs)
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    template = [Hole() if isinstance(x, torch.Tensor) else _constant(x) for x in leaves]
    arguments = _encode(function, structure.unflatten(template))
    _, results = function.outline(args, kwargs)
    outputs = torch.ops.bridge.call(_name(function), arguments, tensors)
    return results.unflatten(outputs)


def sketch(x: torch.Tensor) -> tuple[Any, ArraySpec]:
    """Signature and spec of a tensor in a graph, unknown sizes replaced by examples."""
    shape = torch.Size([hint(size) for size in x.shape])
    spec = ArraySpec(tuple(shape), dtype_name(x.dtype), str(x.device))
    return (shape, x.dtype, x.device, x.layout), spec


def _constant(leaf: Any) -> Any:
    if isinstance(leaf, torch.SymInt):
        return int(leaf)
    if hasattr(leaf, "__dlpack__") or hasattr(leaf, "dtype"):
        raise ArgumentError(
            f"a {type(leaf).__name__} among the arguments would be a constant of the recorded "
            "graph. Pass it as a tensor; a PRNG key by its key data."
        )
    return leaf


def _name(function: Any) -> str:
    """How the graph calls `function`: by where it is imported from, if it is."""
    name = place(function)
    if name is None:
        known = (key for key, other in _functions.items() if other is function)
        name = next(known, f"{function.__name__}#{next(_counter)}")
    _functions[name] = function
    return name


def _find(name: str) -> Any:
    return _functions[name] if name in _functions else find(name)


def _encode(function: Any, template: Any) -> str:
    try:
        return base64.b64encode(pickle.dumps(template)).decode()
    except (pickle.PicklingError, AttributeError, TypeError):  # a lambda, a local class
        function.templates.append(template)
        return f"#{len(function.templates) - 1}"


def _arguments(name: str, arguments: str, tensors: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The function, and the arguments with tensors in the holes."""
    function = _find(name)
    if arguments.startswith("#"):
        template = function.templates[int(arguments[1:])]
    else:
        template = pickle.loads(base64.b64decode(arguments))
    leaves, structure = function.flatten(*template)
    rest = iter(tensors)
    filled = [next(rest) if isinstance(x, Hole) else x for x in leaves]
    args, kwargs = structure.unflatten(filled)
    return function, args, kwargs


@torch.library.custom_op("bridge::call", mutates_args=())
def _call(name: str, arguments: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    function, args, kwargs = _arguments(name, arguments, xs)
    with torch.no_grad():
        return function.flatten((function(*args, **kwargs),), {})[0]


@_call.register_fake
def _(name: str, arguments: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    function, args, kwargs = _arguments(name, arguments, xs)
    names, values = named_axes(xs)
    specs, _ = function.outline(args, kwargs)
    shapes = function.shapes(args, kwargs, names) if names else None
    if shapes is None:
        for size in values.values():
            int(size)  # a guard: this graph is for this size
        shapes = [spec.shape for spec in specs]
    device = xs[0].device if xs else torch.device("cpu")
    return [
        torch.empty(sizes(shape, values), dtype=getattr(torch, spec.dtype), device=device)
        for shape, spec in zip(shapes, specs, strict=True)
    ]


@torch.library.custom_op("bridge::call_vjp", mutates_args=())
def _call_vjp(
    name: str,
    arguments: str,
    wanted: Sequence[int],
    given: Sequence[int],
    xs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    function, args, kwargs = _arguments(name, arguments, xs)
    return list(function.gradients(args, kwargs, wanted, given, cotangents))


@_call_vjp.register_fake
def _(
    name: str,
    arguments: str,
    wanted: Sequence[int],
    given: Sequence[int],
    xs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
) -> list[torch.Tensor]:
    return [torch.empty(xs[i].shape, dtype=xs[i].dtype, device=xs[i].device) for i in wanted]


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.name, ctx.arguments, xs = inputs
    ctx.save_for_backward(*xs)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, cotangents: Sequence[torch.Tensor | None]) -> Any:
    xs = ctx.saved_tensors
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[2]) if needed]
    given = [i for i, c in enumerate(cotangents) if c is not None]
    gradients: list[torch.Tensor | None] = [None] * len(xs)
    if wanted and given:
        found = torch.ops.bridge.call_vjp(
            ctx.name, ctx.arguments, wanted, given, xs, [cotangents[i] for i in given]
        )
        for i, g in zip(wanted, found, strict=True):
            gradients[i] = g
    return None, None, gradients


_call.register_autograd(_backward, setup_context=_setup_context)
