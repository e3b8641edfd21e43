"""The vjp, jvp and batched form of a function of MLX, each again such a function."""

import dataclasses
import functools
from collections.abc import Callable

import mlx.core as mx

from bridge._arrays.mlx import own_memory
from bridge._core.captured_state import CapturedState
from bridge._core.errors import NoRuleError
from bridge._core.op import Axes, ForwardBackward, Op, Positions, Rules, Specs, Traits
from bridge._core.spec import batched_specs, differentiable_positions
from bridge._sources.mlx.batching import loop_over_examples, vmap_is_safe
from bridge._sources.mlx.call_states import CallStates, make_recompute_rule
from bridge._sources.mlx.custom_rules import has_forward_rules
from bridge._sources.mlx.description import describe
from bridge._sources.mlx.forward_mode import (
    Pushforward,
    check_linear,
    double_vjp,
    jvp_by_rules,
    jvp_is_unreliable,
    jvp_with_fallback,
)
from bridge._sources.mlx.function import PureFunction
from bridge._sources.mlx.late_rules import with_late_rules
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, with_salted_seed
from bridge._sources.mlx.residuals import GraphSavingDerivative, saves_graph
from bridge._sources.mlx.upstream_bugs import summarize_checked


@dataclasses.dataclass(frozen=True, eq=False)
class Function(PureFunction):
    """A function with its rules.

    Attributes:
        root: The user's function, if it is a derivative of that.
        captured_state: Reads what the user's function captures.
    """

    root: "Function | None" = None
    captured_state: Callable[[], CapturedState] | None = None

    def make_op(self) -> Op:
        """Make an Op of the function."""
        summary, call = self.summary, self._make_call(tuple)
        vjp = functools.cache(lambda argnums, outnums: self.vjp(argnums, outnums).make_op())
        jvp = functools.cache(self.jvp)
        saves = saves_graph(summary, (*self.primals, *self.outputs), self.settings)
        op = Op(
            name=self.name,
            framework="mlx",
            call=call if self._owns_outputs() else self._make_call(own_memory),
            output_specs=lambda *_: self.outputs,
            rules=Rules(
                vjp=vjp,
                jvp=jvp,
                vmap=self.vmap,
                forward_backward=self.forward_backward if saves else None,
            ),
            traits=Traits(
                call_into=lambda _, xs: call(*xs),
                dependencies=(lambda: summary.dependencies) if summary else None,
                reruns=summary is None,
                uses_global_rng=self.uses_global_rng,
                captured_state=self.captured_state,
                description=lambda: describe(self),
            ),
        )
        states = (self.root or self)._states
        if saves or states is None:
            return op
        recompute = make_recompute_rule(op, states, len(self.primals), vjp, jvp)
        return dataclasses.replace(
            op, rules=dataclasses.replace(op.rules, forward_backward=recompute)
        )

    @functools.cached_property
    def _states(self) -> CallStates | None:
        return CallStates(self.captured_state, self.name) if self.captured_state else None

    def vjp(self, argnums: Positions, outnums: Positions) -> "Function":
        """Return the gradients at `argnums` for cotangents of the outputs at `outnums`."""
        self._check_gradient(argnums)
        count = len(self.primals)
        nonempty_argnums = _nonempty(self.primals, argnums)
        nonempty_outnums = _nonempty(self.outputs, outnums)
        cotangents_at = [count + outnums.index(i) for i in nonempty_outnums]
        self._check_user_gradients(nonempty_argnums, nonempty_outnums)

        def nonempty_gradients(*args: mx.array) -> list[mx.array]:
            fun = self._partial(args[:count], nonempty_argnums, nonempty_outnums)
            cotangents = [args[i] for i in cotangents_at]
            return mx.vjp(fun, [args[i] for i in nonempty_argnums], cotangents)[1]

        def gradients(*args: mx.array) -> list[mx.array]:
            if not self.summary:  # outputs that have elements for these values are refused
                self._call_checker.check_outputs(self.fun(*args[:count]))
            by_argnum = dict[int, mx.array]()
            if nonempty_argnums and nonempty_outnums:
                by_argnum.update(zip(nonempty_argnums, nonempty_gradients(*args), strict=True))
            return [by_argnum[i] if i in by_argnum else mx.zeros_like(args[i]) for i in argnums]

        all_nonempty = (nonempty_argnums, nonempty_outnums) == (argnums, outnums)
        fun = nonempty_gradients if all_nonempty else gradients
        primals = (*self.primals, *(self.outputs[i] for i in outnums))
        return self._derive("vjp", fun, primals, tuple(self.primals[i] for i in argnums))

    def jvp(self, argnums: Positions) -> Op:
        """Make the Op of the tangents of all outputs that have one, by the primals at `argnums`."""
        count = len(self.primals)
        outnums = differentiable_positions(self.outputs)
        push = self._choose_pushforward(argnums, outnums)

        def tangents(*args: mx.array) -> list[mx.array]:
            fun = self._partial(args[:count], argnums, outnums)
            return push(fun, [args[i] for i in argnums], list(args[count:]))

        input_tangents = tuple(self.primals[i] for i in argnums)
        specs = tuple(self.outputs[i] for i in outnums)
        return self._derive("jvp", tangents, (*self.primals, *input_tangents), specs).make_op()

    def _choose_pushforward(self, argnums: Positions, outnums: Positions) -> Pushforward:
        """Return a pushforward that MLX gets right; raise if there is none."""
        summary = self.summary
        unreliable = summary is None or jvp_is_unreliable(self.fun, self.primals, summary)
        if self._has_forward_rules:
            if summary and unreliable:
                raise NoRuleError(
                    f"{self.name} has no forward mode: it has a forward rule of a custom function, "
                    "and mx.fft or mx.addmm, whose tangents MLX gets wrong. Give these a forward "
                    "rule as well, or write a @ b + c for mx.addmm."
                )
            self._check_gradient(argnums, forward_mode=True)
            return jvp_by_rules
        may_have_rules = self._may_have_rules()
        self._check_gradient(argnums, forward_mode=not (unreliable or may_have_rules))
        if not (unreliable or may_have_rules):
            return jvp_with_fallback(lambda: self._check_gradient(argnums))
        if may_have_rules:
            check_linear(self.vjp(argnums, outnums), len(self.primals), self.name)
        return double_vjp

    @functools.cached_property
    def _has_forward_rules(self) -> bool:
        """True if the user wrote forward rules, which tangents then follow."""
        if self.root:
            return self.root._has_forward_rules
        argnums = differentiable_positions(self.primals)
        outnums = differentiable_positions(self.outputs)
        if not (self._may_have_rules() and argnums and outnums):
            return False
        partial = lambda args: self._partial(args, argnums, outnums)
        return has_forward_rules(partial, self.primals, argnums, self.name)

    def vmap(self, axes: Axes, size: int) -> Op:
        """Make the Op of the function mapped over these axes."""

        def of_example(*xs: mx.array) -> list[mx.array]:
            return separate_nodes(run(*xs))

        run = self.called_fun or self.fun
        primals = batched_specs(self.primals, axes, size)
        specs = tuple(spec.with_axis(0, size) for spec in self.outputs)
        fun = batched = mx.vmap(of_example, in_axes=axes)
        is_wrong = self.summary is None or not vmap_is_safe(
            run, batched, self.summary, axes, (self.primals, primals), size
        )
        if is_wrong or self._may_have_rules():
            strided = self.summary is not None and "AsStrided" in self.summary.operations
            fun = loop_over_examples(self.fun, axes, size, self.outputs, dense_examples=strided)
        run_batch = fun if is_wrong else batched
        return self._derive("vmap", fun, primals, specs, called_fun=run_batch).make_op()

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """Make the forward/backward pair; None where it would not give the right gradients."""
        nonempty = _nonempty(self.primals, argnums), _nonempty(self.outputs, outnums)
        if nonempty != (argnums, outnums):
            return None
        self._check_gradient(argnums)
        if self._may_have_rules() and self.vjp(argnums, outnums).summary is None:
            return None  # rules of the user would look at cotangents that are not known yet
        if self._may_have_rules() and self.settings.seed_argnum is not None:
            return None  # they may draw, which they do where a gradient is recomputed
        derivative = GraphSavingDerivative(
            fun=self._with_separate_nodes(self.fun),
            call_checker=self._call_checker,
            primals=self.primals,
            argnums=argnums,
            outnums=outnums,
            recompute_vjp=lambda argnums, outnums: self.vjp(argnums, outnums).make_op(),
            may_have_rules=self._may_have_rules(),
        )
        return derivative.forward_backward()

    def _derive(
        self, rule: str, fun: Fun, primals: Specs, outputs: Specs, called_fun: Fun | None = None
    ) -> "Function":
        """Make the function that a rule leads to, with a dry run of it."""
        if rule != "vmap" and self.settings.seed_argnum is not None and self._may_have_rules():
            fun = with_salted_seed(fun, self.settings.seed_argnum)
        fun = with_late_rules(fun) if self._may_have_rules() else fun
        summary = self.summary and summarize_checked(fun, f"{self.name}.{rule}", primals)
        if summary and summary.uses_global_rng and self.settings.seed_argnum is None:
            raise NoRuleError(
                f"a rule of a custom function in {self.name} draws random numbers, which would "
                "follow from nothing. Draw them in the function."
            )
        may_inherit_rules = self.may_inherit_rules or self._may_have_rules()
        return Function(
            name=f"{self.name}.{rule}",
            primals=primals,
            settings=self.settings,
            fun=fun,
            outputs=outputs,
            summary=summary,
            is_builtin_vjp=rule == "vjp" and not may_inherit_rules,
            may_inherit_rules=may_inherit_rules,
            called_fun=called_fun,
            root=self.root or self,
            captured_state=self.captured_state,
        )


def _nonempty(specs: Specs, positions: Positions) -> Positions:
    """Return those of `positions` whose arrays have elements: NOTE [empty arrays]."""
    return tuple([i for i in positions if 0 not in specs[i].shape])
