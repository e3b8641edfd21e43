"""Rules of functions of torch: vjp, jvp and vmap, which return functions with rules."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge._arrays.torch.upstream.errors import is_setup_context_error
from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import Axes, ForwardBackward, Op, Positions, Specs, Traits
from bridge._core.spec import batched_specs, differentiable_positions
from bridge._core.tracebacks import user_stacklevel
from bridge._sources.torch.autodiff.consistency import (
    accepts_gradients,
    accepts_tangents,
    disagreement_error,
    no_rule_error,
)
from bridge._sources.torch.autodiff.differentiable_functions import with_differentiable_functions
from bridge._sources.torch.autodiff.eager import observe_outputs, run_eagerly
from bridge._sources.torch.autodiff.forward_backward import make_forward_backward
from bridge._sources.torch.autodiff.saved_graphs import can_save_graph, make_graph_saving_derivative
from bridge._sources.torch.autodiff.strategies import (
    RECORDED,
    gradient_strategies,
    recorded_tangent_strategy,
    tangent_strategies,
)
from bridge._sources.torch.autodiff.transforms import (
    dual_jvp,
    recorded_vjp,
    transformed_vjp,
    vmapped,
)
from bridge._sources.torch.autodiff.transposes import tangent_check
from bridge._sources.torch.autodiff.unrecorded_outputs import gradient_dependencies
from bridge._sources.torch.batching.loop_vmap import has_seed_per_example
from bridge._sources.torch.batching.rng_consistency import random_gradient_error, same_gradients
from bridge._sources.torch.batching.vmap import Batched, LoopedBatch, derived_rules, make_batched
from bridge._sources.torch.capture.environment import Fun
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.description import describe
from bridge._sources.torch.function import FunctionInfo
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Function(FunctionInfo):
    """A pure function of flat tensors and its rules, which return such functions."""

    def make_op(self) -> Op:
        """Make the Op of the function."""
        if self.program:
            call = make_call(self.program, self.settings)
            call_into = make_call_into(self.program, self.settings)
        else:
            call_into = None
            call = run_eagerly(
                self.fun, self.outputs, self.check_rerun, name=self.name, settings=self.settings
            )
        return Op(
            name=self.name,
            framework="torch",
            call=call,
            output_specs=lambda *_: self.outputs,
            rules=dataclasses.replace(
                derived_rules(self),
                forward_backward=(
                    self.forward_backward if self.program or can_save_graph(self) else None
                ),
            ),
            traits=Traits(
                call_into=call_into,
                uses_global_rng=self.uses_rng and self.settings.seed_argnum is None,
                reruns=self.program is None,
                dependencies=gradient_dependencies(self),
                fingerprint=self.program.fingerprint if self.program else None,
                graph=export_graph(self.program, self.settings) if self.program else None,
                description=lambda: describe(self),
            ),
        )

    def vjp(self, argnums: Positions, outnums: Positions) -> "Function | Batched":
        """Return the gradients of the primals at `argnums`, by the outputs at `outnums`."""
        if self.program is None and self.uses_rng and self.settings.seed_argnum is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, is rerun for its derivative, and would draw "
                "others. Let the function take a seed."
            )
        if self.strategy and self.make_by_example:
            return self.make_by_example().vjp(argnums, outnums)
        primals = (*self.primals, *(self.outputs[i] for i in outnums))
        accept = lambda gradients: accepts_gradients(self, gradients, argnums, outnums, primals)
        of_batch = lambda batch: batch.vjp(argnums, outnums)
        gradients = self._derive(
            "vjp", gradient_strategies(self, argnums, outnums), primals, of_batch, accept
        )
        if not isinstance(gradients, Function):
            return gradients
        if gradients.uses_rng and self.settings.seed_argnum is None:
            raise random_gradient_error(self.name)
        gradients = self._with_differentiable_fun(
            gradients, recorded_vjp, (argnums, outnums), of_batch
        )
        if self.program:
            return gradients
        transformed_fun = transformed_vjp(
            self.transformed_fun or self.fun, len(self.primals), argnums, outnums
        )
        return dataclasses.replace(gradients, transformed_fun=transformed_fun)

    def jvp(self, argnums: Positions) -> "Function | Batched":
        """Return the tangents of the differentiable outputs, by the primals at `argnums`."""
        if self.strategy and self.make_by_example:
            return self.make_by_example().jvp(argnums)
        outnums = differentiable_positions(self.outputs)
        primals = (*self.primals, *(self.primals[i] for i in argnums))
        accept = lambda tangents: accepts_tangents(self, tangents, argnums, outnums)
        of_batch = lambda batch: batch.jvp(argnums)
        tangents = self._derive(
            "jvp", tangent_strategies(self, argnums, outnums), primals, of_batch, accept
        )
        if not isinstance(tangents, Function):
            return tangents
        tangents = self._with_differentiable_fun(
            tangents, recorded_tangent_strategy(self), (argnums, outnums), of_batch
        )
        if tangents.program or recorded_tangent_strategy(self) is dual_jvp:
            return tangents
        outputs = tuple(self.outputs[i] for i in outnums)
        maps = tangents.make_op().call, self.vjp(argnums, outnums).make_op().call
        check = tangent_check(*maps, outputs, primal_count=len(self.primals), name=self.name)
        return dataclasses.replace(tangents, check_rerun=check)

    def vmap(self, axes: Axes, size: int) -> "Function | Batched":
        """Return the function mapped over `axes` of its arguments."""
        per_example = self.uses_rng and has_seed_per_example(self.settings, axes)
        if self.observer.transforms or per_example:
            return make_batched(self, axes, size, LoopedBatch)
        # torch batches the views in a recorded derivative, but not those in one of torch.func.
        from_graph = make_batched(
            dataclasses.replace(self, needs_recorded_derivatives=True), axes, size, Batched
        )
        if self.needs_recorded_derivatives and self.program:
            return from_graph.check_rng()
        loop = make_batched(self, axes, size, LoopedBatch)
        is_observed = self.observer.hooked or self.observer.asked
        if not self.program and (self.needs_recorded_derivatives or is_observed):
            return loop
        fun = vmapped(self.fun, axes, size, from_graph.randomness)
        primals = batched_specs(self.primals, axes, size)
        try:
            batch = make_function(fun, f"{self.name}.vmap", primals, self.batch_settings)
        except (RuntimeError, NoValuesError):
            return from_graph.check_rng() if self.program else loop
        if self.has_seeded_program and not from_graph.draws_as_unbatched(batch.make_op()):
            return from_graph.check_rng()
        return self._continue(batch, from_graph if self.program else loop)

    def _continue(self, batch: "Function", by_example: "Batched") -> "Function":
        """Return a batch with what is known of this function, and its form by a loop."""
        derivatives = {"strategy": self.strategy, "make_by_example": lambda: by_example}
        return dataclasses.replace(
            batch,
            by_example=by_example,
            observer=self.observer,
            settings=self.settings,
            unrecorded=self.unrecorded,
            **(derivatives if self.differentiable_fun else {}),
        )

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """Make the forward/backward pair; return `None` if there is none."""
        if self.strategy and self.make_by_example:
            return None
        if not self.program:
            if self.by_example and not isinstance(self.vjp(argnums, outnums), Function):
                return None  # torch differentiates the examples, not the batch
            return make_graph_saving_derivative(self, argnums).forward_backward(outnums)
        try:
            pair = make_forward_backward(
                self.fun_to_differentiate,
                self.name,
                self.primals,
                argnums,
                outnums,
                settings=self.settings,
            )
        except NoValuesError:
            return None
        except RuntimeError as error:
            raise no_rule_error("derivative", self.name, error) from error
        if pair and self.by_example and self.observer.asked:
            ops = self.make_op(), self.by_example.vjp(argnums, outnums).make_op()
            seed_argnum, primals = self.settings.seed_argnum, self.primals
            if not same_gradients(
                *ops, pair, argnums, outnums, primals=primals, seed_argnum=seed_argnum
            ):
                return None
        return pair

    def _with_differentiable_fun(
        self,
        derivative: "Function",
        strategy: Callable[..., Fun],
        positions: tuple[Positions, Positions],
        of_batch: Callable[[Batched], Batched],
    ) -> "Function":
        """Add to a derivative of this function what its own derivatives are taken of."""
        fun, make_by_example = self.differentiable_fun, self.make_by_example
        return dataclasses.replace(
            derivative,
            differentiable_fun=fun and strategy(fun, len(self.primals), *positions),
            make_by_example=((lambda: of_batch(make_by_example())) if make_by_example else None),
        )

    def _derive(
        self,
        rule: str,
        strategies: Sequence[tuple[Fun, Callable[..., Any]]],
        primals: Specs,
        of_batch: Callable[[Batched], Batched],
        accept: "Callable[[Function], bool]",
    ) -> "Function | Batched":
        """Return the first derivative that torch can take and that is right: NOTE [two ways]."""
        refused: RuntimeError | None = None
        for fun, strategy in strategies:
            try:
                derivative = make_function(fun, f"{self.name}.{rule}", primals, self.settings)
            except RuntimeError as error:
                refused = error if refused is None or is_setup_context_error(refused) else refused
            else:
                derivative = dataclasses.replace(
                    derivative, strategy=strategy, observer=self.observer
                )
                if not accept(derivative):
                    refused = disagreement_error(self)
                    continue
                recorded = derivative.needs_recorded_derivatives or strategy in RECORDED
                return dataclasses.replace(derivative, needs_recorded_derivatives=recorded)
        if self.by_example:
            return of_batch(self.by_example)
        raise no_rule_error(rule, self.name, refused) from refused


def make_user_function(fun: Fun, name: str, primals: Specs, settings: Settings) -> Function:
    """Make the user's function with its rules."""
    try:  # as in training, where it may behave differently
        function = make_function(fun, name, primals, settings, training=True)
    except RuntimeError:  # some operators refuse gradients, such as those of batch statistics
        function = make_function(fun, name, primals, settings)
    if not function.observer.functions:
        return function
    differentiable_fun = with_differentiable_functions(fun, settings)
    return dataclasses.replace(function, differentiable_fun=differentiable_fun)


def make_function(
    fun: Fun, name: str, primals: Specs, settings: Settings, *, training: bool = False
) -> Function:
    """Make `fun` a function with rules, captured unless that is impossible or switched off."""
    make = functools.partial(Function, name=name, primals=primals, fun=fun)
    if settings.capture != "never":
        program = _capture(fun, primals, name=name, settings=settings, training=training)
        if program:
            return make(
                outputs=program.outputs,
                settings=settings,
                program=program,
                observer=program.observer,
                uses_rng=program.uses_rng,
                needs_recorded_derivatives=program.observer.hooked or program.has_custom_ops,
                unrecorded=program.unrecorded,
            )
        settings = dataclasses.replace(settings, capture="never")
    observed = observe_outputs(fun, primals, settings=settings, training=training)
    return make(settings=settings, program=None, **vars(observed))


def _capture(
    fun: Fun, primals: Specs, *, name: str, settings: Settings, training: bool
) -> Program | None:
    """Capture `fun`; warn and return `None` if it looks at values and may be rerun instead."""
    try:
        return trace(fun, primals, name=name, settings=settings, training=training)
    except NoValuesError as error:
        if settings.exports_graph:
            raise NoValuesError(
                f'{error} Without a graph there is nothing that lower="xla" could compile: '
                'rewrite it, by torch.where say, or let torch compute with lower="ffi".'
            ) from error
        if settings.capture == "require":
            raise
        warnings.warn(
            f"{error} It is rerun on each call and for each derivative, on copies of its "
            'arguments; capture="never" asks for that, capture="require" refuses it.',
            stacklevel=user_stacklevel(),
        )
        return None
