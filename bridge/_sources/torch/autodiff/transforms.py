"""Derivatives of functions of torch as functions of torch, each in two ways.

NOTE [two ways]
The transforms of torch.func can be nested and batched, but refuse what older code does: an
`autograd.Function` whose `forward` takes a context, saved-tensor hooks, NumPy. To record what the
function does, as for `torch.autograd.grad`, supports all of that, but cannot be batched. Both give
the same derivatives; the second is used where torch.func refuses the function.

NOTE [tangents from gradients]
Where torch has no forward formula, a tangent is the gradient of a gradient by its cotangent. That
is right as long as the gradient is linear in the cotangent. It is not, for example, if an
`autograd.Function` clips gradients: then the derivative depends on the cotangent at which it is
taken, there is no tangent, and the function is refused. So these tangents take the cotangents as
arguments, on which they must not depend.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._core.pytree import scatter
from bridge._sources.torch.capture.environment import Fun
from bridge._sources.torch.capture.sparse import dense_gradient

ACCUMULATES = (
    "a `.backward()` in it adds to the `.grad` of tensors, which is no gradient that is returned. "
    "Call torch.autograd.grad there, and return its gradients from the backward pass."
)


def with_free_args(
    fun: Fun, xs: Sequence[torch.Tensor], free: Positions, outputs: Sequence[int]
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Make `fun` a function of its arguments at `free` only, with the outputs at `outputs` only.

    The other arguments are those of `xs`.
    """

    def with_fixed(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        returned = fun(*scatter(values, free, xs))
        return tuple(returned[i] for i in outputs)

    return with_fixed


def transformed_vjp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the gradients of `fun`, a function of `primal_count` primals, by `torch.func.vjp`."""

    def gradients(*args: torch.Tensor) -> Any:
        xs, cotangents = args[:primal_count], args[primal_count:]
        partial = with_free_args(fun, xs, argnums, outnums)
        pullback: Any = torch.func.vjp(partial, *(xs[i] for i in argnums))[1]
        return pullback(_copy_all(cotangents))

    return gradients


def recorded_vjp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the gradients of `fun`, of `primal_count` primals, by `torch.autograd.grad`."""

    def gradients(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, cotangents = args[:primal_count], args[primal_count:]
        create_graph = any(x.requires_grad for x in args)
        with torch.enable_grad():
            free = [_require_grad(xs[i]) for i in argnums]
            outputs = with_free_args(fun, xs, argnums, outnums)(*free)
            gradients = take_gradients(outputs, free, cotangents, create_graph=create_graph)
        if any(x.is_leaf and x.grad is not None for x in free):
            raise NoRuleError(ACCUMULATES)
        return gradients

    return gradients


def transformed_jvp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the tangents of `fun`, a function of `primal_count` primals, by `torch.func.jvp`."""

    def jvp(*args: torch.Tensor) -> Any:
        xs, tangents = args[:primal_count], args[primal_count:]
        partial = with_free_args(fun, xs, argnums, outnums)
        pair: Any = torch.func.jvp(partial, tuple(xs[i] for i in argnums), tangents)
        # In torch 2.13, the tangent of a float32 without axes plus a Python number is float64.
        return tuple(t.to(y.dtype) for y, t in zip(*pair, strict=True))

    return jvp


def jvp_by_double_vjp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the tangents by `torch.func.vjp` of a pullback: NOTE [tangents from gradients]."""

    def jvp(*args: torch.Tensor) -> Any:
        xs, tangents = args[:primal_count], args[primal_count : primal_count + len(argnums)]
        partial = with_free_args(fun, xs, argnums, outnums)
        outputs, pullback, *_ = torch.func.vjp(partial, *(xs[i] for i in argnums))
        cotangents = args[primal_count + len(argnums) :] or [torch.zeros_like(y) for y in outputs]
        return torch.func.vjp(lambda *c: pullback(_copy_all(c)), *cotangents)[1](tangents)

    return jvp


def recorded_jvp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the tangents by `torch.autograd.grad` of gradients: NOTE [tangents from gradients]."""

    def jvp(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, tangents = args[:primal_count], args[primal_count : primal_count + len(argnums)]
        create_graph = any(x.requires_grad for x in args)
        with torch.enable_grad():
            free = [_require_grad(xs[i]) for i in argnums]
            outputs = with_free_args(fun, xs, argnums, outnums)(*free)
            points = args[primal_count + len(argnums) :] or [torch.zeros_like(y) for y in outputs]
            cotangents = [_require_grad(c) for c in points]
            gradients = take_gradients(outputs, free, cotangents, create_graph=True)
            return take_gradients(gradients, cotangents, tangents, create_graph=create_graph)

    return jvp


def dual_jvp(fun: Fun, primal_count: int, argnums: Positions, outnums: Positions) -> Fun:
    """Make the tangents by `torch.autograd.forward_ad`, which uses the `jvp` of any Function."""

    def jvp(*args: torch.Tensor) -> list[torch.Tensor]:
        xs, tangents = args[:primal_count], args[primal_count:]
        with torch.enable_grad(), forward_ad.dual_level():
            pairs = zip(argnums, tangents, strict=True)
            duals = [forward_ad.make_dual(xs[i], t) for i, t in pairs]
            outputs = with_free_args(fun, xs, argnums, outnums)(*duals)
            pairs = zip(outputs, map(forward_ad.unpack_dual, outputs), strict=True)
            return [torch.zeros_like(y) if t is None else t.to(y.dtype) for y, (_, t) in pairs]

    return jvp


def with_zero_output_tangents(jvp: Fun, positions: Sequence[int]) -> Fun:
    """Make `jvp` return zeros at `positions`, where `torch.no_grad` or the like stops gradients."""

    def jvp_with_zeros(*args: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(t) if i in positions else t for i, t in enumerate(jvp(*args))]

    return jvp_with_zeros


def _require_grad(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as a tensor to take gradients by; one that is recorded stays connected."""
    if x.requires_grad:
        return x.view_as(x)
    primal, tangent = forward_ad.unpack_dual(x)
    leaf = primal.detach().requires_grad_()
    return leaf if tangent is None else forward_ad.make_dual(leaf, tangent)


def _copy_all(cotangents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Copy cotangents, since a backward may change them in place."""
    return tuple(c.clone() for c in cotangents)


def take_gradients(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    *,
    create_graph: bool,
    retain_graph: bool = False,
) -> list[torch.Tensor]:
    """Return the gradients of `inputs`, zeros for those that no output depends on.

    With `create_graph` they can be differentiated; with `retain_graph`, gradients of the same
    outputs can be taken again.
    """
    recorded = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not recorded:
        return [torch.zeros_like(x) for x in inputs]
    ys, cs = zip(*recorded, strict=True)
    gradients: Any = torch.autograd.grad(
        ys,
        inputs,
        _copy_all(cs),
        create_graph=create_graph,
        retain_graph=create_graph or retain_graph,
        allow_unused=True,
    )
    return [
        torch.zeros_like(x) if g is None else dense_gradient(g)
        for x, g in zip(inputs, gradients, strict=True)
    ]


def vmapped(fun: Fun, axes: Sequence[int | None], size: int, randomness: str) -> Fun:
    """Map `fun` over an axis of its arguments, by `torch.func.vmap`; results have it in front."""

    def one(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(fun(*xs))

    def batch(*xs: torch.Tensor) -> Any:
        if all(axis is None for axis in axes):
            return [y.expand(size, *y.shape) for y in fun(*xs)]
        # Examples are contiguous as single arguments are, for functions that depend on strides.
        moved = [
            x if axis is None else x.movedim(axis, 0).contiguous()
            for x, axis in zip(xs, axes, strict=True)
        ]
        in_dims = tuple(None if axis is None else 0 for axis in axes)
        return torch.func.vmap(one, in_dims, randomness=randomness)(*moved)

    return batch
