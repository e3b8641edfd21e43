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

from bridge._arrays.torch import suspend_transforms, transforming, unwrap_dead
from bridge._core.captured_state import restored
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Execute, Executor
from bridge._core.pytree import replace_at
from bridge._core.tracebacks import entry_point, shorten_traceback, shortens_tracebacks
from bridge._targets.torch import dynamo, operators as operators
from bridge._targets.torch.backward_plan import (
    ForwardPlan,
    backward_plan,
    forward_plan,
    plan_from_outputs,
)
from bridge._targets.torch.internals import (
    batch_level,
    check_not_jit_traced,
    check_not_tracing,
    follow_grad_mode,
    hide_from_dynamo,
    in_forward_mode,
    is_compiling,
    is_dual,
    is_plain_autograd,
    is_staged,
    unwrap_batched,
    wrap_batched,
)
from bridge._targets.torch.running import Running, running
from bridge._targets.torch.staging import stage, staged_spec


class TorchTarget:
    """Call sites in PyTorch."""

    def make_native(self, op: Op, runner: Executor, _: Any) -> Callable[..., Arrays]:
        """`op` as a function of tensors under every transformation of torch."""
        return functools.partial(_call, op, runner.execute)

    def rng_seed(self, key: Any) -> Any:
        """`key` itself: torch has no keys."""
        return key

    def fresh_seed(self) -> torch.Tensor:
        """An integer of torch's generator, so that it can be restored, as by a checkpoint."""
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device="cpu")

    @staticmethod
    def is_compiling() -> bool:
        """Whether Dynamo reads the call; raises where `torch.jit.trace` would record it."""
        if is_compiling():
            return True
        check_not_jit_traced()
        return False

    suspend_transforms = staticmethod(suspend_transforms)
    is_staged = staticmethod(is_staged)
    staged_spec = staticmethod(staged_spec)
    call_in_compiled_code = staticmethod(dynamo.call)
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


def _call(op: Op, run: Execute, *xs: Any) -> Arrays:
    if not is_plain_autograd():
        return _call_transformed(op, run, xs)
    if torch.is_grad_enabled() and _any_requires_grad(xs := unwrap_dead(xs)):
        return _apply_plain(op.name)(op, run, *xs)
    return run(op, xs)


@functools.lru_cache(maxsize=1024)
def _apply_plain(name: str) -> Callable[..., Arrays]:
    """`apply` as the engine has it, without the questions about `torch.func`, asked already."""
    engine: Any = super(torch.autograd.Function, _named_subclass(_Plain, name))
    return engine.apply


def _call_transformed(op: Op, run: Execute, xs: tuple[Any, ...]) -> Arrays:
    if batch_level() and (outputs := _call_batched(op, run, xs)) is not None:
        return outputs
    check_not_tracing()
    if transforming():
        return _named_subclass(_Transformable, op.name).apply(
            op, running(op, run), *follow_grad_mode(xs)
        )
    xs = unwrap_dead(xs)
    if (torch.is_grad_enabled() and _any_requires_grad(xs)) or (
        in_forward_mode() and _any_dual(xs)
    ):
        return _named_subclass(_Plain, op.name).apply(op, run, *xs)
    return run(op, xs)


def _call_batched(op: Op, run: Execute, xs: Sequence[Any]) -> Arrays | None:
    """The outputs if one of `xs` is batched: NOTE [the vmap of the engine]."""
    for level in range(batch_level(), 0, -1):
        inner = {
            i: taken for i, x in enumerate(xs) if (taken := unwrap_batched(x, level)) is not None
        }
        if inner:
            axes = tuple(0 if i in inner else None for i in range(len(xs)))
            size = len(next(iter(inner.values())))
            inside = [inner.get(i, x) for i, x in enumerate(xs)]
            outputs = _call(op.derive("vmap", axes, size), run, *inside)
            return tuple(wrap_batched(y, level) for y in outputs)
    return None


def _any_requires_grad(xs: Iterable[Any]) -> bool:
    for x in xs:  # noqa: SIM110, any() with a generator takes three times as long
        if isinstance(x, torch.Tensor) and x.requires_grad:
            return True
    return False


def _any_dual(xs: Iterable[Any]) -> bool:
    return any(isinstance(x, torch.Tensor) and is_dual(x) for x in xs)


@functools.lru_cache(maxsize=1024)
def _named_subclass(base: type, name: str) -> Any:
    """`base` under the name of the user's function, which `grad_fn` and profiles show."""
    return type(name, (base,), {})


class _Rules(torch.autograd.Function):
    """The derivatives of a call, from what `_save_for_backward` put into its context."""

    @staticmethod
    @entry_point
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        if is_compiling():  # as `hide_from_dynamo`, which would cost a call more
            return torch.compiler.disable(_Rules.backward)(ctx, *cotangents)
        try:
            with restored(ctx.state):
                gradients, needed = _compute_gradients(ctx, cotangents)
        except Exception as error:
            shorten_traceback(error)
            raise
        count = len(ctx.needs_input_grad) - 2
        if len(gradients) == count:
            return None, None, *gradients
        return None, None, *replace_at(gradients, needed, [None] * count)

    @staticmethod
    @hide_from_dynamo
    @shortens_tracebacks
    def jvp(ctx: Any, *tangents: Any) -> Any:
        op, run, made = ctx.call
        given = tuple(i for i, t in enumerate(tangents[2:]) if t is not None)
        moving = [tangents[2 + i] for i in given]
        xs, _ = _load_saved(ctx)
        with restored(ctx.state):
            outputs = _call(op.derive("jvp", given), run, *xs, *moving)
        found = dict(zip(made.differentiable_outputs, outputs, strict=True))
        return tuple(None if i in ctx.fixed else found[i] for i in made.outputs)


def _compute_gradients(ctx: Any, cotangents: Sequence[Any]) -> tuple[Sequence[Any], Positions]:
    """The gradients of some primals, and the positions of these."""
    op, run, made = ctx.call
    dense = [c.to_dense() if c.is_sparse else c for c in cotangents if c is not None]
    given = made.outputs
    if len(dense) < len(given):
        given = tuple([i for i in given if cotangents[i] is not None])
    way = backward_plan(op, made, ctx.needs_input_grad, given)
    xs, row = _load_saved(ctx)
    if way.op is None:
        return [None] * len(way.argnums), way.argnums
    if _is_differentiated_again(xs, dense):
        return _call(op.derive("vjp", way.argnums, given), run, *xs, *dense), way.argnums
    return run(way.op, (*(row if way.split else xs), *dense)), way.argnums


def _is_differentiated_again(xs: Sequence[Any], cotangents: Sequence[Any]) -> bool:
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    if torch.is_grad_enabled():
        return True
    if is_plain_autograd():
        return False
    return not in_forward_mode() or transforming() or _any_dual(xs) or _any_dual(cotangents)


class _Plain(_Rules):
    """A call outside of `torch.func`: NOTE [two classes]."""

    @staticmethod
    def forward(ctx: Any, op: Op, run: Execute, *xs: Any) -> Arrays:
        ctx.set_materialize_grads(False)
        flags, ctx.state = ctx.needs_input_grad, op.read_state()
        if op.dependencies is None:
            outputs = run(op, xs)
            _save_for_backward(ctx, (op, run, plan_from_outputs(op, outputs, flags)), xs, outputs)
            return outputs
        made = forward_plan(op, flags)
        results = run(made.forward, xs)
        if made.split is None:
            _save_for_backward(ctx, (op, run, made), xs, results)
            return results
        count = made.split.output_count
        outputs, residuals = results[:count], results[count:]
        kept = [outputs[i] for i in made.split.saved_outputs]
        _save_for_backward(ctx, (op, run, made), xs, outputs, (*kept, *residuals))
        return outputs


class _Transformable(_Rules):
    """A call under `torch.func`."""

    @staticmethod
    def forward(op: Op, run: Running, *xs: Any) -> Arrays:
        return run.execute(op, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Arrays) -> None:
        ctx.set_materialize_grads(False)
        op, run, *xs = inputs
        ctx.state = run.state
        made = (
            forward_plan(op, (False, False))
            if op.dependencies
            else plan_from_outputs(op, output, (False, False))
        )
        _save_for_backward(ctx, (op, run.execute, made), xs, output)

    @staticmethod
    @hide_from_dynamo
    @shortens_tracebacks
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, run, *xs = args
        mapped = op.derive("vmap", tuple(in_dims[2:]), info.batch_size)
        outputs = _call(mapped, run.execute, *xs)
        return outputs, (0,) * len(outputs)


def _save_for_backward(
    ctx: Any,
    call: tuple[Op, Execute, ForwardPlan],
    xs: Sequence[Any],
    outputs: Arrays,
    residuals: Sequence[torch.Tensor] = (),
) -> None:
    """Save for the derivatives: tensors where hooks and version counters see them."""
    ctx.call, made = call, call[2]
    ctx.others = {i: x for i, x in enumerate(xs) if not isinstance(x, torch.Tensor)}
    if ctx.others:
        ctx.save_for_backward(*replace_at([None] * len(ctx.others), [*ctx.others], xs), *residuals)
    else:
        ctx.save_for_backward(*xs, *residuals)
    fixed = made.non_differentiable
    if not made.argnums or in_forward_mode():  # a tangent may come in by any primal
        ctx.save_for_forward(*(None if i in ctx.others else x for i, x in enumerate(xs)))
        ctx.fixed = fixed = made.independent_primals(call[0], range(len(xs)))
    if fixed:
        ctx.mark_non_differentiable(*(outputs[i] for i in fixed))


def _load_saved(ctx: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """The primals, and the row of residuals that the backward half takes."""
    saved, others = ctx.saved_tensors, ctx.others  # a checkpoint lets saved_tensors be read once
    count = len(ctx.needs_input_grad) - 2
    xs = saved[:count]
    if others:
        xs = replace_at(others.values(), [*others], xs)
    split = ctx.call[2].split
    if split is None:
        return xs, ()
    return xs, (*(xs[i] for i in split.saved_primals), *saved[count:])


TARGET = TorchTarget()
