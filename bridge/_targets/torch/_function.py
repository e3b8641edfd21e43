"""Ops as `torch.autograd.Function`.

NOTE [two classes]
A Function that `torch.func` can transform needs `setup_context`, which costs about 10 us a call.
Outside of transformations `_Plain` is used, which can also keep residuals: in `torch.func`, a
gradient is always taken so that it can be differentiated again, from the primals alone.

NOTE [outputs nobody uses]
An output without cotangent must not take part in the backward pass: zeros in its place would be
multiplied by what may be infinite. So a split is made for the outputs that are used. Which these
are shows only in the backward pass: the first time all are assumed to be, and if that was wrong,
the gradients are recomputed from the primals, and the next forward pass knows better.

NOTE [the derivative of an Op is an Op]
Derivatives are native calls of derived Ops, so they can be differentiated and batched as the
first call was. Only where nobody can ask for that is the split taken.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bridge._op import Arrays, Op, Positions, Split
from bridge._protocols import Run
from bridge._targets.torch._internals import (
    batch_level,
    batched,
    may_be_dual,
    refuse_recording,
    transforming,
    unbatched,
)
from bridge._tree import spread


class TorchTarget:
    """Call sites in PyTorch."""

    def expose(self, op: Op, run: Run) -> Callable[..., Arrays]:
        """`op` as a function of tensors under every transformation of torch."""
        return functools.partial(_call, op, run)

    def check_gradients(
        self, fn: Callable[..., Arrays], xs: Sequence[torch.Tensor], *, order: int, **how: Any
    ) -> None:
        """Raise `GradcheckError` unless the derivatives of `fn` agree with finite differences."""
        primals = [x.detach().requires_grad_() for x in xs]
        torch.autograd.gradcheck(fn, primals, check_forward_ad=True, **how)
        if order > 1:
            torch.autograd.gradgradcheck(fn, primals, **how)


def _call(op: Op, run: Run, *xs: Any) -> Arrays:
    for level in range(batch_level(), 0, -1):
        inner = {i: taken for i, x in enumerate(xs) if (taken := unbatched(x, level)) is not None}
        if inner:
            axes = tuple(0 if i in inner else None for i in range(len(xs)))
            size = len(next(iter(inner.values())))
            inside = [inner.get(i, x) for i, x in enumerate(xs)]
            outputs = _call(op.derive("vmap", axes, size), run, *inside)
            return tuple(batched(y, level) for y in outputs)
    refuse_recording()
    if transforming():
        return _named(_Transformable, op.name).apply(op, run, *xs)
    if _requires_grad(xs) or _any_dual(xs):
        return _named(_Plain, op.name).apply(op, run, *xs)
    return run(op, xs)


def _requires_grad(xs: Iterable[Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(x, torch.Tensor) and x.requires_grad for x in xs
    )


def _any_dual(xs: Iterable[Any]) -> bool:
    return any(isinstance(x, torch.Tensor) and may_be_dual(x) for x in xs)


@functools.lru_cache(maxsize=1024)
def _named(base: type, name: str) -> Any:
    """`base` under the name of the user's function, which `grad_fn` and profiles show."""
    return type(name, (base,), {})


class _Rules(torch.autograd.Function):
    """The derivatives of a call, from what `_keep` put into its context."""

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        given = tuple(i for i, c in enumerate(cotangents) if c is not None)
        needed = _reached(ctx.op, given, _positions(ctx.needs_input_grad[2:]))
        dense = [c.to_dense() if c.is_sparse else c for c in cotangents if c is not None]
        xs, residuals = _restore(ctx)
        if not needed or not given:
            gradients: Sequence[Any] = [None] * len(needed)
        elif given == ctx.given and not _differentiated_again([*xs, *dense]):
            gradients = ctx.run(ctx.split.backward(needed), [*residuals, *dense])
        else:
            if ctx.split:
                ctx.op.used[ctx.wanted] = given
            gradients = _call(ctx.op.derive("vjp", needed, given), ctx.run, *xs, *dense)
        return None, None, *spread(gradients, needed, [None] * len(xs))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        given = tuple(i for i, t in enumerate(tangents[2:]) if t is not None)
        moving = [tangents[2 + i] for i in given]
        xs, _ = _restore(ctx)
        outputs = _call(ctx.op.derive("jvp", given), ctx.run, *xs, *moving)
        found = dict(zip(ctx.smooth, outputs, strict=True))
        return tuple(found[i] if i in ctx.flows else None for i in range(ctx.count))


def _differentiated_again(xs: Iterable[Any]) -> bool:
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    return torch.is_grad_enabled() or transforming() or batch_level() > 0 or _any_dual(xs)


class _Plain(_Rules):
    """A call outside of `torch.func`: NOTE [two classes]."""

    @staticmethod
    def forward(ctx: Any, op: Op, run: Run, *xs: Any) -> Arrays:
        ctx.set_materialize_grads(False)
        ctx.wanted = _positions(ctx.needs_input_grad[2:])
        given = _used(op, ctx.wanted) if op.split else ()
        if not given:
            outputs = run(op, xs)
            _keep(ctx, op, run, xs, outputs)
            return outputs
        split: Split = op.derive("split", ctx.wanted, given)
        results = run(split.forward, xs)
        outputs, residuals = results[: split.outputs], results[split.outputs :]
        _keep(ctx, op, run, xs, outputs, split, residuals)
        ctx.given = given
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
        ctx.wanted = ()
        _keep(ctx, op, run, xs, output)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, run, *xs = args
        outputs = _call(op.derive("vmap", tuple(in_dims[2:]), info.batch_size), run, *xs)
        return outputs, (0,) * len(outputs)


def _used(op: Op, wanted: Positions) -> Positions:
    """The outputs expected to have cotangents: NOTE [outputs nobody uses]."""
    if wanted not in op.used:
        smooth = _positions(spec.differentiable for spec in op.specs())
        op.used[wanted] = tuple(i for i in smooth if _reached(op, [i], wanted))
    return op.used[wanted]


def _positions(flags: Iterable[bool]) -> Positions:
    return tuple(i for i, flag in enumerate(flags) if flag)


def _reached(op: Op, outputs: Iterable[int], primals: Positions) -> Positions:
    """Those of `primals` that one of `outputs` depends on."""
    if op.reach is None:
        return primals
    reach = op.reach()
    return tuple(i for i in primals if any(i in reach[y] for y in outputs))


def _keep(
    ctx: Any,
    op: Op,
    run: Run,
    xs: Sequence[Any],
    outputs: Arrays,
    split: Split | None = None,
    residuals: Sequence[torch.Tensor] = (),
) -> None:
    """Save for the derivatives: tensors where hooks and version counters see them."""
    ctx.op, ctx.run, ctx.split, ctx.given, ctx.count = op, run, split, None, len(outputs)
    tensors = [x if isinstance(x, torch.Tensor) else None for x in xs]
    ctx.others = [None if isinstance(x, torch.Tensor) else x for x in xs]
    kept = [outputs[i] for i in split.kept_outputs] if split else []
    ctx.save_for_backward(*tensors, *kept, *residuals)
    ctx.save_for_forward(*tensors)
    ctx.smooth = _positions(y.is_floating_point() or y.is_complex() for y in outputs)
    reach = op.reach() if op.reach else [{*range(len(xs))}] * len(outputs)
    # A tangent may come in by any primal, a gradient is wanted only by some.
    wanted = ctx.wanted if ctx.wanted and not _any_dual(xs) else range(len(xs))
    ctx.flows = [i for i in ctx.smooth if not reach[i].isdisjoint(wanted)]
    ctx.mark_non_differentiable(*(y for i, y in enumerate(outputs) if i not in ctx.flows))


def _restore(ctx: Any) -> tuple[list[Any], list[Any]]:
    """The primals, and the row of residuals that the backward half takes."""
    count, saved = len(ctx.others), ctx.saved_tensors  # a checkpoint lets it be read once
    primals, rest = saved[:count], saved[count:]
    xs = [other if x is None else x for x, other in zip(primals, ctx.others, strict=True)]
    kept = ctx.split.kept_primals if ctx.split else ()
    return xs, [*(xs[i] for i in kept), *rest]


FACE = TorchTarget()
