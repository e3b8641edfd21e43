"""Ops as `torch.autograd.Function`.

NOTE [two classes]
A Function that `torch.func` can transform needs `setup_context`, which costs about 10 us a call.
Outside of transformations `_Plain` is used, which can also keep residuals: in `torch.func`, a
gradient is always taken so that it can be differentiated again, from the primals alone.

NOTE [the derivative of an Op is an Op]
Derivatives are native calls of derived Ops, so they can be differentiated and batched as the
first call was. Only where nobody can ask for that is the split taken.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bridge._op import Arrays, Op, Positions
from bridge._protocols import Run
from bridge._targets.torch import _dynamo
from bridge._targets.torch._internals import (
    batch_level,
    batched,
    compiling,
    forward_mode,
    is_dual,
    is_staged,
    recording,
    transforming,
    unbatched,
    unread,
)
from bridge._targets.torch._recipe import Recipe, reached, recipe, revise, unprepared
from bridge._targets.torch._staging import sketch, stage
from bridge._tree import spread


class TorchTarget:
    """Call sites in PyTorch."""

    def expose(self, op: Op, run: Run) -> Callable[..., Arrays]:
        """`op` as a function of tensors under every transformation of torch."""
        return functools.partial(_call, op, run)

    compiling = staticmethod(compiling)
    is_staged = staticmethod(is_staged)
    sketch = staticmethod(sketch)
    compiled = staticmethod(_dynamo.call)
    stage = staticmethod(stage)

    def check_gradients(
        self, fn: Callable[..., Arrays], xs: Sequence[torch.Tensor], *, order: int, **how: Any
    ) -> None:
        """Raise `GradcheckError` unless the derivatives of `fn` agree with finite differences."""
        primals = [x.detach().requires_grad_() for x in xs]
        torch.autograd.gradcheck(fn, primals, check_forward_ad=True, **how)
        if order > 1:
            torch.autograd.gradgradcheck(fn, primals, **how)


def _call(op: Op, run: Run, *xs: Any) -> Arrays:
    if batch_level() and (outputs := _call_batched(op, run, xs)) is not None:
        return outputs
    recording()
    if transforming():
        return _named(_Transformable, op.name).apply(op, run, *xs)
    if torch.is_grad_enabled():
        for x in xs:
            if isinstance(x, torch.Tensor) and x.requires_grad:
                return _named(_Plain, op.name).apply(op, run, *xs)
    if forward_mode() and _any_dual(xs):
        return _named(_Plain, op.name).apply(op, run, *xs)
    return run(op, xs)


def _call_batched(op: Op, run: Run, xs: Sequence[Any]) -> Arrays | None:
    """The outputs if one of `xs` is batched: NOTE [the vmap of the engine]."""
    for level in range(batch_level(), 0, -1):
        inner = {i: taken for i, x in enumerate(xs) if (taken := unbatched(x, level)) is not None}
        if inner:
            axes = tuple(0 if i in inner else None for i in range(len(xs)))
            size = len(next(iter(inner.values())))
            inside = [inner.get(i, x) for i, x in enumerate(xs)]
            outputs = _call(op.derive("vmap", axes, size), run, *inside)
            return tuple(batched(y, level) for y in outputs)
    return None


def _any_dual(xs: Iterable[Any]) -> bool:
    return any(isinstance(x, torch.Tensor) and is_dual(x) for x in xs)


@functools.lru_cache(maxsize=1024)
def _named(base: type, name: str) -> Any:
    """`base` under the name of the user's function, which `grad_fn` and profiles show."""
    return type(name, (base,), {})


class _Rules(torch.autograd.Function):
    """The derivatives of a call, from what `_keep` put into its context."""

    @staticmethod
    @unread
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        op, run, made = ctx.op, ctx.run, ctx.made
        given = tuple([i for i, c in enumerate(cotangents) if c is not None])
        needed = reached(op, given, _positions(ctx.needs_input_grad[2:]))
        dense = [c.to_dense() if c.is_sparse else c for c in cotangents if c is not None]
        xs, residuals = _restore(ctx)
        if not needed or not given:
            gradients: Sequence[Any] = [None] * len(needed)
        elif made.split and given == made.given and not _differentiated_again(xs, dense):
            gradients = run(made.split.backward(needed), [*residuals, *dense])
        else:
            if made.split and given != made.given:
                revise(op, made.wanted, given)
            gradients = _call(op.derive("vjp", needed, given), run, *xs, *dense)
        return None, None, *spread(gradients, needed, [None] * len(xs))

    @staticmethod
    @unread
    def jvp(ctx: Any, *tangents: Any) -> Any:
        given = tuple(i for i, t in enumerate(tangents[2:]) if t is not None)
        moving = [tangents[2 + i] for i in given]
        xs, _ = _restore(ctx)
        outputs = _call(ctx.op.derive("jvp", given), ctx.run, *xs, *moving)
        found = dict(zip(ctx.made.smooth, outputs, strict=True))
        return tuple(found[i] if i in ctx.flows else None for i in range(ctx.count))


def _differentiated_again(xs: Sequence[Any], cotangents: Sequence[Any]) -> bool:
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    if torch.is_grad_enabled() or transforming() or batch_level():
        return True
    return forward_mode() and (_any_dual(xs) or _any_dual(cotangents))


class _Plain(_Rules):
    """A call outside of `torch.func`: NOTE [two classes]."""

    @staticmethod
    def forward(ctx: Any, op: Op, run: Run, *xs: Any) -> Arrays:
        ctx.set_materialize_grads(False)
        wanted = _positions(ctx.needs_input_grad[2:])
        if op.reach is None:
            outputs = run(op, xs)
            _keep(ctx, op, run, unprepared(op, outputs, wanted), xs, outputs)
            return outputs
        made = recipe(op, wanted)
        results = run(made.forward, xs)
        if made.split is None:
            _keep(ctx, op, run, made, xs, results)
            return results
        count = made.split.outputs
        outputs, residuals = results[:count], results[count:]
        _keep(ctx, op, run, made, xs, outputs, residuals)
        return outputs


class _Transformable(_Rules):
    """A call under `torch.func`."""

    @staticmethod
    def forward(op: Op, run: Run, *xs: Any) -> Arrays:
        return run(op, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Arrays) -> None:
        ctx.set_materialize_grads(False)
        op, run, *xs = inputs
        made = recipe(op, ()) if op.reach else unprepared(op, output, ())
        _keep(ctx, op, run, made, xs, output)

    @staticmethod
    @unread
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, run, *xs = args
        outputs = _call(op.derive("vmap", tuple(in_dims[2:]), info.batch_size), run, *xs)
        return outputs, (0,) * len(outputs)


def _positions(flags: Iterable[bool]) -> Positions:
    return tuple([i for i, flag in enumerate(flags) if flag])


def _keep(
    ctx: Any,
    op: Op,
    run: Run,
    made: Recipe,
    xs: Sequence[Any],
    outputs: Arrays,
    residuals: Sequence[torch.Tensor] = (),
) -> None:
    """Save for the derivatives: tensors where hooks and version counters see them."""
    ctx.op, ctx.run, ctx.made, ctx.count = op, run, made, len(outputs)
    tensors = [x if isinstance(x, torch.Tensor) else None for x in xs]
    ctx.others = [None if isinstance(x, torch.Tensor) else x for x in xs]
    kept = [outputs[i] for i in made.split.kept_outputs] if made.split else []
    ctx.save_for_backward(*tensors, *kept, *residuals)
    ctx.flows = made.flows
    if not made.wanted or forward_mode():  # a tangent may come in by any primal
        ctx.save_for_forward(*tensors)
        everything = tuple(range(len(xs)))
        ctx.flows = tuple(i for i in made.smooth if reached(op, [i], everything))
    if len(ctx.flows) < len(outputs):
        fixed = (y for i, y in enumerate(outputs) if i not in ctx.flows)
        ctx.mark_non_differentiable(*fixed)


def _restore(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The primals, and the row of residuals that the backward half takes."""
    saved, others = ctx.saved_tensors, ctx.others  # a checkpoint lets saved_tensors be read once
    xs = [other if x is None else x for x, other in zip(saved, others, strict=False)]
    split = ctx.made.split
    if split is None:
        return xs, []
    return xs, [*(xs[i] for i in split.kept_primals), *saved[len(others) :]]


FACE = TorchTarget()
