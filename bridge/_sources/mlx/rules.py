"""The vjp, jvp and batched form of a function of MLX, each again such a function."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from bridge._arrays.mlx import async_evaluate, compute_stream, own_memory
from bridge._core.captured_state import CapturedState
from bridge._core.errors import NoRuleError
from bridge._core.op import Arrays, ForwardBackward, Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._sources.mlx.batching import Axes, loop_over_examples, vmap_is_safe
from bridge._sources.mlx.call_checks import ObservedCall
from bridge._sources.mlx.call_states import CallStates, recompute
from bridge._sources.mlx.custom_rules import check_rules, has_forward_rules
from bridge._sources.mlx.forward_mode import (
    Push,
    check_linear,
    checked_jvp,
    double_vjp,
    jvp_by_rules,
    jvp_is_unreliable,
)
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64
from bridge._sources.mlx.missing_rules import raise_for_leftovers, raise_no_rule
from bridge._sources.mlx.native import Settings
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, rng_state, rules_with_seed
from bridge._sources.mlx.residuals import SavedGraph
from bridge._sources.mlx.upstream_bugs import check_gradient, check_unseen, safe_outline
from bridge._sources.mlx.value_checks import check_value_use


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A pure function of flat arrays of these `primals`, and its rules.

    Attributes:
        name: Of the user's function and the rules applied to it.
        primals: Specs of the arguments.
        settings: Those of the user's function.
        fun: What MLX transforms.
        outputs: Specs of the results.
        outline: What else is known of it, `None` where it looks at values.
        gradient: Whether its results are gradients that MLX alone computes.
        ruled: Whether they, or what they were derived from, may be by rules of the user.
        run: What computes them, if `fun` only stands for that in derivatives.
        draws: Whether random numbers are drawn that follow from no primal.
        captures: Raises where what it captures would lose its gradient, if it is the function of
            the user itself.
        root: The function of the user that it is derived from, if it is another.
        captured_state: What reads what the function of the user captures.
    """

    name: str
    primals: Specs
    settings: Settings
    fun: Fun
    outputs: Specs
    outline: GraphSummary | None
    gradient: bool = False
    has_custom_rules: bool = False
    run: Fun | None = None
    draws: bool = False
    captures: functools.partial[None] | None = None
    root: "Function | None" = None
    captured_state: Callable[[], CapturedState] | None = None

    def make_op(self) -> Op:
        """The function as an Op."""
        known, lazy = self.outline, self._call(tuple)
        vjp = functools.cache(lambda wanted, given: self.vjp(wanted, given).make_op())
        jvp = functools.cache(self.jvp)
        op = Op(
            name=self.name,
            framework="mlx",
            call=lazy if self._is_unshared() else self._call(own_memory),
            call_into=lambda _, xs: lazy(*xs),
            output_specs=lambda *_: self.outputs,
            vjp=vjp,
            jvp=jvp,
            vmap=self.vmap,
            forward_backward=self.forward_backward if self._saves_residuals() else None,
            dependencies=(lambda: known.dependencies) if known else None,
            reruns=known is None,
            uses_rng=self.draws,
            captured_state=self.captured_state,
        )
        states = (self.root or self)._states
        if op.forward_backward or states is None:
            return op
        halves = recompute(op, states, len(self.primals), vjp, jvp)
        return dataclasses.replace(op, forward_backward=halves)

    @functools.cached_property
    def _states(self) -> CallStates | None:
        return CallStates(self.captured_state, self.name) if self.captured_state else None

    def _call(self, own: Callable[[Sequence[mx.array]], Arrays]) -> Callable[..., Arrays]:
        """The function, whose results are passed through `own`."""
        run, check = self.run or self.fun, self._observed_call.check_call
        if self.outline is None:
            run = raise_no_rule(self.name)(run)
        elif self.settings.compile:
            run = mx.compile(run)

        def call(*xs: mx.array) -> Arrays:
            before = rng_state()
            try:
                outputs = own(run(*xs))
                async_evaluate(outputs)
            except RuntimeError as error:
                raise_for_leftovers(error, self.name)
                raise
            check(outputs, drew=rng_state() is not before)
            return outputs

        def call_wide(*xs: mx.array) -> Arrays:
            with compute_stream(has_float64=True):
                return call(*xs)

        return call_wide if has_float64(self.primals) else call

    @functools.cached_property
    def _observed_call(self) -> ObservedCall:
        may_draw = self.draws or self.settings.seed is not None
        return ObservedCall(self.outputs, self.name, may_draw, self.captures)

    def _is_unshared(self) -> bool:
        """Whether nobody else holds the memory of results: NOTE [gradients of our own]."""
        if self.settings.compile or self.outline is None:  # two may be compiled to one
            return False
        return self.gradient and self.outline.allocates_outputs

    def _is_by_rules(self) -> bool:
        """Whether a custom function takes part, whose rules may hold the gradients it returns."""
        return self.outline is None or "CustomTransforms" in self.outline.operations

    def vjp(self, argnums: Positions, outnums: Positions) -> "Function":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        self._check_gradient(argnums)
        count = len(self.primals)
        full, heard = _with_elements(self.primals, argnums), _with_elements(self.outputs, outnums)
        at = [count + outnums.index(i) for i in heard]
        self._check_rules(full, heard)

        def gradients(*args: mx.array) -> list[mx.array]:
            of_full = self._partial(args[:count], full, heard)
            return mx.vjp(of_full, [args[i] for i in full], [args[i] for i in at])[1]

        def some_empty(*args: mx.array) -> list[mx.array]:
            if not self.outline:  # which may return elements for these values, and is refused
                self._observed_call.check_outputs(self.fun(*args[:count]))
            found = dict(zip(full, gradients(*args), strict=True)) if full and heard else {}
            return [found[i] if i in found else mx.zeros_like(args[i]) for i in argnums]

        fun = gradients if (full, heard) == (argnums, outnums) else some_empty
        cotangents = (self.outputs[i] for i in outnums)
        specs = tuple(self.primals[i] for i in argnums)
        return self._derived("vjp", fun, (*self.primals, *cotangents), specs)

    def jvp(self, argnums: Positions) -> Op:
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        count = len(self.primals)
        smooth = _smooth(self.outputs)
        push = self._jvp_function(argnums, smooth)

        def tangents(*args: mx.array) -> list[mx.array]:
            of_given = self._partial(args[:count], argnums, smooth)
            return push(of_given, [args[i] for i in argnums], list(args[count:]))

        moving = tuple(self.primals[i] for i in argnums)
        specs = tuple(self.outputs[i] for i in smooth)
        return self._derived("jvp", tangents, (*self.primals, *moving), specs).make_op()

    def _jvp_function(self, argnums: Positions, smooth: Positions) -> Push:
        """The way to tangents of the outputs at `smooth` that is right."""
        known = self.outline
        doubtful = known is None or jvp_is_unreliable(self.fun, self.primals, known)
        if self._has_forward_rules:
            if known and doubtful:
                raise NoRuleError(
                    f"forward mode of {self.name} cannot be had: it has a forward rule of a custom "
                    "function, and mx.fft or mx.addmm, whose tangents MLX has wrong. Give these a "
                    "forward rule as well, or write a @ b + c for mx.addmm."
                )
            self._check_gradient(argnums, forward=True)
            return jvp_by_rules
        ruled = self._is_by_rules()
        self._check_gradient(argnums, forward=not (doubtful or ruled))
        if not (doubtful or ruled):
            return checked_jvp(lambda: self._check_gradient(argnums))
        if ruled:
            slope = self.vjp(argnums, smooth)
            check_linear(slope.fun, slope.primals, slope.outline, len(self.primals), self.name)
        return double_vjp

    @functools.cached_property
    def _has_forward_rules(self) -> bool:
        """Whether the user wrote forward rules, which tangents follow then."""
        if self.root:
            return self.root._has_forward_rules
        at, smooth = _smooth(self.primals), _smooth(self.outputs)
        if not (self._is_by_rules() and at and smooth):
            return False
        of_smooth = lambda args: self._partial(args, at, smooth)
        return has_forward_rules(of_smooth, self.primals, at, self.name)

    def _check_rules(self, argnums: Positions, outnums: Positions) -> None:
        if self._is_by_rules() and argnums and outnums:
            cotangents = tuple(self.outputs[i] for i in outnums)
            of_wanted = lambda args: self._partial(args, argnums, outnums)
            check_rules(of_wanted, self.primals, argnums, cotangents, self.name)

    def vmap(self, axes: Axes, size: int) -> Op:
        """The function mapped over `axes` of its arguments."""

        def of_example(*xs: mx.array) -> list[mx.array]:
            return separate_nodes(run(*xs))

        run = self.run or self.fun
        primals = [s.with_axis(axis, size) for s, axis in zip(self.primals, axes, strict=True)]
        specs = tuple(spec.with_axis(0, size) for spec in self.outputs)
        fun = batched = mx.vmap(of_example, in_axes=axes)
        wrong = self.outline is None or not (
            vmap_is_safe(run, batched, self.outline, axes, self.primals, tuple(primals), size)
        )
        if wrong or self._is_by_rules():
            strided = self.outline is not None and "AsStrided" in self.outline.operations
            fun = loop_over_examples(self.fun, axes, size, self.outputs, dense=strided)
        run_batch = fun if wrong else batched
        return self._derived("vmap", fun, tuple(primals), specs, run=run_batch).make_op()

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """The first derivative in two halves; `None` where there are gradients without elements."""
        sizes = _with_elements(self.primals, argnums), _with_elements(self.outputs, outnums)
        if sizes != (argnums, outnums):
            return None
        self._check_gradient(argnums)
        if self._is_by_rules() and self.vjp(argnums, outnums).outline is None:
            return None  # the rules of the user would look at cotangents that are not known yet
        if self._is_by_rules() and self.settings.seed is not None:
            return None  # they may draw, as they do where a gradient is computed anew
        saving = SavedGraph(
            fun=self._unpeeled(self.fun),
            looked=self._observed_call,
            primals=self.primals,
            argnums=argnums,
            outnums=outnums,
            vjp=lambda wanted, given: self.vjp(wanted, given).make_op(),
        )
        return saving.forward_backward()

    def _partial(self, xs: Sequence[mx.array], free: Positions, argnums: Positions) -> Fun:
        """The outputs at `wanted` as a function of the primals at `free`."""
        whole, held = self._unpeeled(self.fun), self._observed_call.check_outputs

        def fun(*moving: mx.array) -> list[mx.array]:
            outputs = held(whole(*replace_at(moving, free, xs)))
            return separate_nodes([outputs[i] for i in argnums])

        return fun if self.outline else check_value_use(fun, (free, argnums), self.name)

    def _unpeeled(self, fun: Fun) -> Fun:
        """`fun`, whatever transformations are in it: NOTE [copies peeled off]."""
        if self.outline and "Copy" not in self.outline.operations:
            return fun
        return lambda *xs: fun(*separate_nodes(xs))

    def _saves_residuals(self) -> bool:
        """Whether a first derivative keeps a graph for its second half."""
        settings, known = self.settings, self.outline
        if known is None or settings.compile or settings.residuals == "recompute":
            return False
        largest = max((math.prod(s.shape) for s in (*self.primals, *self.outputs)), default=0)
        # What a second forward pass takes, and what it takes to keep a graph, in us.
        return (
            settings.residuals == "save"
            or len(known.operations_in_order) * (1 + largest / 1000) > _KEEPING
        )

    def _check_gradient(self, argnums: Positions, *, forward: bool = False) -> None:
        known = self.outline
        if known:
            check_gradient(self.fun, self.primals, known, self.name, argnums, forward=forward)
        else:
            check_unseen(self.primals, self.outputs, self.name)

    def _derived(
        self, rule: str, fun: Fun, primals: Specs, outputs: Specs, run: Fun | None = None
    ) -> "Function":
        if rule != "vmap" and self.settings.seed is not None and self._is_by_rules():
            fun = rules_with_seed(fun, self.settings.seed)
        known = self.outline and safe_outline(fun, f"{self.name}.{rule}", primals)
        if known and known.uses_rng and self.settings.seed is None:
            raise NoRuleError(
                f"a rule of a custom function in {self.name} draws random numbers, which would "
                "follow from nothing. Draw them in the function."
            )
        ruled = self.has_custom_rules or self._is_by_rules()
        return Function(
            name=f"{self.name}.{rule}",
            primals=primals,
            settings=self.settings,
            fun=fun,
            outputs=outputs,
            outline=known,
            gradient=rule == "vjp" and not ruled,
            has_custom_rules=ruled,
            run=run,
            root=self.root or self,
            captured_state=self.captured_state,
        )


_KEEPING = 40


def _with_elements(specs: Specs, positions: Positions) -> Positions:
    """Those of `positions` where there is something to compute: NOTE [empty arrays]."""
    return tuple([i for i in positions if 0 not in specs[i].shape])


def _smooth(specs: Specs) -> Positions:
    return tuple([i for i, spec in enumerate(specs) if spec.differentiable])
