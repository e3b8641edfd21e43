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
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bridge._arrays.torch import aside, transforming
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Run, Runner
from bridge._core.pytree import spread
from bridge._core.tracebacks import entrance, shorten, shortened
from bridge._targets.torch import dynamo, operators as operators
from bridge._targets.torch.backward_plan import Recipe, recipe, route, unprepared
from bridge._targets.torch.internals import (
    batch_level,
    batched,
    compiling,
    forward_mode,
    is_dual,
    is_staged,
    recording,
    unbatched,
    undisturbed,
    unread,
)
from bridge._targets.torch.staging import sketch, stage


class TorchTarget:
    """Call sites in PyTorch."""

    def expose(self, op: Op, runner: Runner, _: Any) -> Callable[..., Arrays]:
        """`op` as a function of tensors under every transformation of torch."""
        return functools.partial(_call, op, runner.evaluate)

    def seed(self, key: Any) -> Any:
        """`key` itself: torch has no keys."""
        return key

    def fresh_seed(self) -> torch.Tensor:
        """An integer of torch's generator, so that it can be restored, as by a checkpoint."""
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device="cpu")

    aside = staticmethod(aside)
    compiling = staticmethod(compiling)
    is_staged = staticmethod(is_staged)
    sketch = staticmethod(sketch)
    compiled = staticmethod(dynamo.call)
    stage = staticmethod(stage)

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[torch.Tensor],
        *,
        order: int,
        modes: Sequence[str],
        **how: Any,
    ) -> None:
        """Raise `GradcheckError` unless the derivatives of `fn` agree with finite differences."""
        primals = [x.detach().requires_grad_() for x in xs]
        reverse = "rev" in modes
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input #.* not a double precision")
            torch.autograd.gradcheck(
                fn, primals, check_forward_ad="fwd" in modes, check_backward_ad=reverse, **how
            )
            if order > 1 and reverse:
                torch.autograd.gradgradcheck(fn, primals, **how)

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[torch.Tensor]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """The results, and what `torch.autograd.grad` makes of their cotangents."""
        primals = [x.detach().requires_grad_() for x in xs]
        outputs = fn(*primals)

        def pull(cotangents: Sequence[Any]) -> Sequence[torch.Tensor]:
            return torch.autograd.grad(
                outputs, primals, cotangents, retain_graph=True, materialize_grads=True
            )

        return tuple(y.detach() for y in outputs), pull


def _call(op: Op, run: Run, *xs: Any) -> Arrays:
    if not undisturbed():
        return _call_transformed(op, run, xs)
    if torch.is_grad_enabled() and _any_wanted(xs):
        return _apply_plain(op.name)(op, run, *xs)
    return run(op, xs)


@functools.lru_cache(maxsize=1024)
def _apply_plain(name: str) -> Callable[..., Arrays]:
    """`apply` as the engine has it, without the questions about `torch.func`, asked already."""
    engine: Any = super(torch.autograd.Function, _named(_Plain, name))
    return engine.apply


def _call_transformed(op: Op, run: Run, xs: Sequence[Any]) -> Arrays:
    if batch_level() and (outputs := _call_batched(op, run, xs)) is not None:
        return outputs
    recording()
    if transforming():
        return _named(_Transformable, op.name).apply(op, run, *xs)
    if (torch.is_grad_enabled() and _any_wanted(xs)) or (forward_mode() and _any_dual(xs)):
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


def _any_wanted(xs: Iterable[Any]) -> bool:
    for x in xs:  # noqa: SIM110, any() with a generator takes three times as long
        if isinstance(x, torch.Tensor) and x.requires_grad:
            return True
    return False


def _any_dual(xs: Iterable[Any]) -> bool:
    return any(isinstance(x, torch.Tensor) and is_dual(x) for x in xs)


@functools.lru_cache(maxsize=1024)
def _named(base: type, name: str) -> Any:
    """`base` under the name of the user's function, which `grad_fn` and profiles show."""
    return type(name, (base,), {})


class _Rules(torch.autograd.Function):
    """The derivatives of a call, from what `_keep` put into its context."""

    @staticmethod
    @entrance
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        if compiling():  # as `unread`, which would cost a call more
            return torch.compiler.disable(_Rules.backward)(ctx, *cotangents)
        try:
            gradients, needed = _gradients(ctx, cotangents)
        except Exception as error:
            shorten(error)
            raise
        count = len(ctx.needs_input_grad) - 2
        if len(gradients) == count:
            return None, None, *gradients
        return None, None, *spread(gradients, needed, [None] * count)

    @staticmethod
    @unread
    @shortened
    def jvp(ctx: Any, *tangents: Any) -> Any:
        op, run, made = ctx.call
        given = tuple(i for i, t in enumerate(tangents[2:]) if t is not None)
        moving = [tangents[2 + i] for i in given]
        xs, _ = _restore(ctx)
        outputs = _call(op.derive("jvp", given), run, *xs, *moving)
        found = dict(zip(made.smooth, outputs, strict=True))
        return tuple(None if i in ctx.fixed else found[i] for i in made.outputs)


def _gradients(ctx: Any, cotangents: Sequence[Any]) -> tuple[Sequence[Any], Positions]:
    """The gradients of some primals, and the positions of these."""
    op, run, made = ctx.call
    dense = [c.to_dense() if c.is_sparse else c for c in cotangents if c is not None]
    given = made.outputs
    if len(dense) < len(given):
        given = tuple([i for i in given if cotangents[i] is not None])
    way = route(op, made, ctx.needs_input_grad, given)
    xs, row = _restore(ctx)
    if way.op is None:
        return [None] * len(way.needed), way.needed
    if _differentiated_again(xs, dense):
        return _call(op.derive("vjp", way.needed, given), run, *xs, *dense), way.needed
    return run(way.op, (*(row if way.split else xs), *dense)), way.needed


def _differentiated_again(xs: Sequence[Any], cotangents: Sequence[Any]) -> bool:
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    if torch.is_grad_enabled():
        return True
    if undisturbed():
        return False
    return not forward_mode() or transforming() or _any_dual(xs) or _any_dual(cotangents)


class _Plain(_Rules):
    """A call outside of `torch.func`: NOTE [two classes]."""

    @staticmethod
    def forward(ctx: Any, op: Op, run: Run, *xs: Any) -> Arrays:
        ctx.set_materialize_grads(False)
        flags = ctx.needs_input_grad
        if op.reach is None:
            outputs = run(op, xs)
            _keep(ctx, (op, run, unprepared(op, outputs, flags)), xs, outputs)
            return outputs
        made = recipe(op, flags)
        results = run(made.forward, xs)
        if made.split is None:
            _keep(ctx, (op, run, made), xs, results)
            return results
        count = made.split.outputs
        outputs, residuals = results[:count], results[count:]
        kept = [outputs[i] for i in made.split.kept_outputs]
        _keep(ctx, (op, run, made), xs, outputs, (*kept, *residuals))
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
        made = recipe(op, (False, False)) if op.reach else unprepared(op, output, (False, False))
        _keep(ctx, (op, run, made), xs, output)

    @staticmethod
    @unread
    @shortened
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, run, *xs = args
        outputs = _call(op.derive("vmap", tuple(in_dims[2:]), info.batch_size), run, *xs)
        return outputs, (0,) * len(outputs)


def _keep(
    ctx: Any,
    call: tuple[Op, Run, Recipe],
    xs: Sequence[Any],
    outputs: Arrays,
    residuals: Sequence[torch.Tensor] = (),
) -> None:
    """Save for the derivatives: tensors where hooks and version counters see them."""
    ctx.call, made = call, call[2]
    ctx.others = {i: x for i, x in enumerate(xs) if not isinstance(x, torch.Tensor)}
    if ctx.others:
        ctx.save_for_backward(*spread([None] * len(ctx.others), [*ctx.others], xs), *residuals)
    else:
        ctx.save_for_backward(*xs, *residuals)
    fixed = made.fixed
    if not made.wanted or forward_mode():  # a tangent may come in by any primal
        ctx.save_for_forward(*(None if i in ctx.others else x for i, x in enumerate(xs)))
        ctx.fixed = fixed = made.unreached(call[0], range(len(xs)))
    if fixed:
        ctx.mark_non_differentiable(*(outputs[i] for i in fixed))


def _restore(ctx: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """The primals, and the row of residuals that the backward half takes."""
    saved, others = ctx.saved_tensors, ctx.others  # a checkpoint lets saved_tensors be read once
    count = len(ctx.needs_input_grad) - 2
    xs = saved[:count]
    if others:
        xs = spread(others.values(), [*others], xs)
    split = ctx.call[2].split
    if split is None:
        return xs, ()
    return xs, (*(xs[i] for i in split.kept_primals), *saved[count:])


FACE = TorchTarget()
