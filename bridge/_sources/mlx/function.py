"""Functions of MLX: their calls, and what their dry runs have shown."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import mlx.core as mx

from bridge._arrays.mlx import async_evaluate, compute_stream
from bridge._arrays.mlx.upstream.errors import raise_for_leftovers, raise_no_rule
from bridge._core.op import Arrays, Positions, Specs
from bridge._core.pytree import scatter
from bridge._sources.mlx.call_checks import CallChecker
from bridge._sources.mlx.custom_rules import check_rule_gradients
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64
from bridge._sources.mlx.native import Settings
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, rng_state
from bridge._sources.mlx.upstream_bugs import check_captures, check_gradient, check_real
from bridge._sources.mlx.value_checks import check_value_use


@dataclasses.dataclass(frozen=True, eq=False)
class PureFunction:
    """A pure function of flat arrays.

    Attributes:
        name: The name of the user's function, and the rules applied to it.
        primals: The specs of its primals.
        settings: The settings of the user's function.
        fun: The function that MLX transforms.
        outputs: The specs of its outputs.
        summary: A summary of its graph; None if it looks at values.
        is_builtin_vjp: True if its outputs are gradients that MLX alone computes.
        may_inherit_rules: True if it derives from a function that may have rules of the user.
        called_fun: The function that MLX calls, if `fun` is only for derivatives.
        uses_global_rng: True if it draws random numbers that follow from no primal.
        check_no_captured_tracers: Raises if a captured array would lose its gradient; None for
            derivatives.
    """

    name: str
    primals: Specs
    settings: Settings
    fun: Fun
    outputs: Specs
    summary: GraphSummary | None
    is_builtin_vjp: bool = False
    may_inherit_rules: bool = False
    called_fun: Fun | None = None
    uses_global_rng: bool = False
    check_no_captured_tracers: functools.partial[None] | None = None

    def _make_call(self, own: Callable[[Sequence[mx.array]], Arrays]) -> Callable[..., Arrays]:
        """Return the function for calls on values; its outputs are passed through `own`."""
        run = self.called_fun or self.fun
        if self.summary is None:
            run = raise_no_rule(self.name)(run)
        elif self.settings.compile:
            run = mx.compile(run)
        call = _make_call(run, self._call_checker, own)
        return _on_cpu(call) if has_float64(self.primals) else call

    @functools.cached_property
    def _call_checker(self) -> CallChecker:
        may_draw = self.uses_global_rng or self.settings.seed_argnum is not None
        return CallChecker(self.outputs, self.name, may_draw, self.check_no_captured_tracers)

    def _owns_outputs(self) -> bool:
        """Return True if nobody else has the memory of outputs: NOTE [gradients of our own]."""
        if self.settings.compile or self.summary is None:  # mx.compile may merge two outputs
            return False
        return self.is_builtin_vjp and self.summary.allocates_outputs

    def _may_have_rules(self) -> bool:
        """Return True if it may call a custom function, whose rules may store their gradients."""
        return self.summary is None or "CustomTransforms" in self.summary.operations

    def _partial(self, xs: Sequence[mx.array], argnums: Positions, outnums: Positions) -> Fun:
        """Return the outputs at `outnums` as a function of the primals at `argnums`."""
        of_all = self._with_separate_nodes(self.fun)
        check_outputs = self._call_checker.check_outputs

        def fun(*free: mx.array) -> list[mx.array]:
            outputs = check_outputs(of_all(*scatter(free, argnums, xs)))
            return separate_nodes([outputs[i] for i in outnums])

        return fun if self.summary else check_value_use(fun, (argnums, outnums), self.name)

    def _with_separate_nodes(self, fun: Fun) -> Fun:
        """Return `fun` so that transformations in it are right: NOTE [copies peeled off]."""
        if self.summary and "Copy" not in self.summary.operations:
            return fun
        return lambda *xs: fun(*separate_nodes(xs))

    def _check_gradient(self, argnums: Positions, *, forward_mode: bool = False) -> None:
        """Raise if MLX gets the gradient, or the tangent, by the primals at `argnums` wrong."""
        if summary := self.summary:
            check_captures(summary, self.name, argnums)
            check_gradient(
                self.fun, self.primals, summary, self.name, argnums, forward_mode=forward_mode
            )
        else:
            check_real(self.primals, self.outputs, self.name)

    def _check_user_gradients(self, argnums: Positions, outnums: Positions) -> None:
        """Raise if a gradient rule of the user returns gradients that do not fit."""
        if self._may_have_rules() and argnums and outnums:
            cotangents = tuple(self.outputs[i] for i in outnums)
            partial = lambda args: self._partial(args, argnums, outnums)
            check_rule_gradients(partial, self.primals, argnums, cotangents, self.name)


def _make_call(
    run: Fun, checker: CallChecker, own: Callable[[Sequence[mx.array]], Arrays]
) -> Callable[..., Arrays]:
    """Return `run` so that it starts computing its outputs and checks them meanwhile."""
    check, name = checker.check_call, checker.name

    def call(*xs: mx.array) -> Arrays:
        before = rng_state()
        try:
            outputs = own(run(*xs))
            started = async_evaluate(outputs)
        except RuntimeError as error:
            raise_for_leftovers(error, name)
            raise
        check(outputs, drew=rng_state() is not before, transformed=not started)
        return outputs

    return call


def _on_cpu(call: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """Return `call` so that it can compute with float64, which MLX supports on the CPU only."""

    def call_on_cpu(*xs: mx.array) -> Arrays:
        with compute_stream(has_float64=True):
            return call(*xs)

    return call_on_cpu
