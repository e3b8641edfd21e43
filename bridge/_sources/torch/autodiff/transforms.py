"""Derivatives of functions of torch as functions of torch, each in two ways.

NOTE [two ways]
The transforms of torch.func can be nested and batched, but refuse what older code does: an
`autograd.Function` whose `forward` takes a context, saved-tensor hooks, NumPy. Recording what the
function does and walking back, as `torch.autograd.grad` does, takes all of that, but cannot be
batched. Both give the same derivatives; the second stands in where the first is refused.

NOTE [tangents from gradients]
Where torch has no forward formula, a tangent is the gradient of a gradient by its cotangent. That
is right as long as the gradient is linear in the cotangent. It is not, if an `autograd.Function`
clips what comes in: then it matters at which cotangent the derivative is taken, there is no
tangent, and the function is refused. So the cotangents are arguments of these tangents, on which
they must not depend.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._core.pytree import replace_at
from bridge._sources.torch.capture.sparse import dense_gradient

Fun = Callable[..., Sequence[torch.Tensor]]

ACCUMULATES = (
    "a `.backward()` in it adds to the `.grad` of tensors, which is no gradient that is returned. "
    "Call torch.autograd.grad there, and let the backward pass return what it gives."
)


def with_free_args(
    fun: Fun, xs: Sequence[torch.Tensor], free: Positions, outputs: Sequence[int]
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """`fun` of its arguments at `free` alone, the others being `xs`, and these of its outputs."""

    def of_free(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = fun(*replace_at(values, free, xs))
        return tuple(found[i] for i in outputs)

    return of_free


def transformed_vjp(fun: Fun, count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Gradients by `torch.func.vjp`."""

    def gradients(*args: torch.Tensor) -> Any:
        xs, cotangents = args[:count], args[count:]
        of_wanted = with_free_args(fun, xs, argnums, outnums)
        pull: Any = torch.func.vjp(of_wanted, *(xs[i] for i in argnums))[1]
        return pull(_copies(cotangents))

    return gradients


def recorded_vjp(fun: Fun, count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Gradients by `torch.autograd.grad`."""

    def gradients(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, cotangents = args[:count], args[count:]
        again = any(x.requires_grad for x in args)
        with torch.enable_grad():
            free = [_as_leaf(xs[i]) for i in argnums]
            outputs = with_free_args(fun, xs, argnums, outnums)(*free)
            gradients = backward(outputs, free, cotangents, again=again)
        if any(x.is_leaf and x.grad is not None for x in free):
            raise NoRuleError(ACCUMULATES)
        return gradients

    return gradients


def transformed_jvp(fun: Fun, count: int, argnums: Positions, outputs: Positions) -> Fun:
    """Tangents by `torch.func.jvp`, in the dtypes of their outputs.

    In torch 2.13, that of a float32 without axes, added to a Python number, is float64.
    """

    def tangents(*args: torch.Tensor) -> Any:
        xs, directions = args[:count], args[count:]
        of_given = with_free_args(fun, xs, argnums, outputs)
        found: Any = torch.func.jvp(of_given, tuple(xs[i] for i in argnums), directions)
        return tuple(t.to(y.dtype) for y, t in zip(*found, strict=True))

    return tangents


def transposed_jvp(fun: Fun, count: int, argnums: Positions, outputs: Positions) -> Fun:
    """Tangents by `torch.func.vjp` of a pullback: NOTE [tangents from gradients]."""

    def tangents(*args: torch.Tensor) -> Any:
        xs, directions = args[:count], args[count : count + len(argnums)]
        of_given = with_free_args(fun, xs, argnums, outputs)
        found, pull, *_ = torch.func.vjp(of_given, *(xs[i] for i in argnums))
        cotangents = args[count + len(argnums) :] or [torch.zeros_like(y) for y in found]
        return torch.func.vjp(lambda *c: pull(_copies(c)), *cotangents)[1](directions)

    return tangents


def recorded_jvp(fun: Fun, count: int, argnums: Positions, outputs: Positions) -> Fun:
    """Tangents by `torch.autograd.grad` of a gradient: NOTE [tangents from gradients]."""

    def tangents(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, directions = args[:count], args[count : count + len(argnums)]
        again = any(x.requires_grad for x in args)
        with torch.enable_grad():
            free = [_as_leaf(xs[i]) for i in argnums]
            found = with_free_args(fun, xs, argnums, outputs)(*free)
            at = args[count + len(argnums) :] or [torch.zeros_like(y) for y in found]
            cotangents = [_as_leaf(c) for c in at]
            gradients = backward(found, free, cotangents, again=True)
            return backward(gradients, cotangents, directions, again=again)

    return tangents


def dual_jvp(fun: Fun, count: int, argnums: Positions, outputs: Positions) -> Fun:
    """Tangents by `torch.autograd.forward_ad`, which takes the `jvp` of any `autograd.Function`."""

    def tangents(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, directions = args[:count], args[count:]
        with torch.enable_grad(), forward_ad.dual_level():
            pairs = zip(argnums, directions, strict=True)
            duals = [forward_ad.make_dual(xs[i], t) for i, t in pairs]
            found = with_free_args(fun, xs, argnums, outputs)(*duals)
            pairs = zip(found, map(forward_ad.unpack_dual, found), strict=True)
            return [torch.zeros_like(y) if t is None else t.to(y.dtype) for y, (_, t) in pairs]

    return tangents


def with_zeros(tangents: Fun, at: Sequence[int]) -> Fun:
    """`tangents`, zeros `at` results that no gradient goes through, as of `torch.no_grad`."""

    def of_recorded(*args: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(t) if i in at else t for i, t in enumerate(tangents(*args))]

    return of_recorded


def _as_leaf(x: torch.Tensor) -> torch.Tensor:
    """`x` where gradients are to be taken by it; one that is recorded already stays connected."""
    if x.requires_grad:
        return x.view_as(x)
    primal, tangent = forward_ad.unpack_dual(x)
    leaf = primal.detach().requires_grad_()
    return leaf if tangent is None else forward_ad.make_dual(leaf, tangent)


def _copies(cotangents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Cotangents that a backward may change in place."""
    return tuple(c.clone() for c in cotangents)


def backward(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    *,
    again: bool,
    retain: bool = False,
) -> list[torch.Tensor]:
    """The gradients of `inputs`, zeros for those that no output depends on.

    They can be differentiated `again`; with `retain`, others can be taken of the same outputs.
    """
    flowing = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not flowing:
        return [torch.zeros_like(x) for x in inputs]
    ys, cs = zip(*flowing, strict=True)
    how: Any = {"create_graph": again, "retain_graph": again or retain, "allow_unused": True}
    found: Any = torch.autograd.grad(ys, inputs, _copies(cs), **how)
    return [
        torch.zeros_like(x) if g is None else dense_gradient(g)
        for x, g in zip(inputs, found, strict=True)
    ]


def vmapped(fun: Fun, axes: Sequence[int | None], size: int, randomness: str) -> Fun:
    """`fun` over an axis of its arguments, by `torch.func.vmap`; axis 0 of each result."""

    def each(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(fun(*xs))

    def results(*xs: torch.Tensor) -> Any:
        if all(axis is None for axis in axes):
            return [y.expand(size, *y.shape) for y in fun(*xs)]
        # Examples lie in memory as single arguments do, for functions that go by strides.
        rows = [
            x if axis is None else x.movedim(axis, 0).contiguous()
            for x, axis in zip(xs, axes, strict=True)
        ]
        onto = tuple(None if axis is None else 0 for axis in axes)
        return torch.func.vmap(each, onto, randomness=randomness)(*rows)

    return results
