"""The vjp, jvp and batched form of a function of torch, each again such a function."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.tracebacks import user_stacklevel
from bridge._sources.torch.autodiff.consistency import (
    accepts_gradients,
    accepts_tangents,
    disagreement_error,
    no_rule_error,
)
from bridge._sources.torch.autodiff.differentiable_functions import with_differentiable_functions
from bridge._sources.torch.autodiff.eager import infer_outputs, run_eagerly, tangent_check
from bridge._sources.torch.autodiff.forward_backward import make_forward_backward
from bridge._sources.torch.autodiff.saved_graphs import can_save_graph, save_graph
from bridge._sources.torch.autodiff.strategies import (
    RECORDED,
    forward_strategy,
    gradient_strategies,
    tangent_strategies,
)
from bridge._sources.torch.autodiff.transforms import (
    dual_jvp,
    recorded_vjp,
    transformed_vjp,
    vmapped,
)
from bridge._sources.torch.autodiff.unrecorded_outputs import recorded_dependencies
from bridge._sources.torch.batching.loop_vmap import Axes, batched_specs, has_seed_per_example
from bridge._sources.torch.batching.rng_consistency import missing_key_error, same_gradients
from bridge._sources.torch.batching.vmap import Batched, LoopedBatch, make_batched
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import Fun, trace
from bridge._sources.torch.internals import GradientObserver, is_style_error
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Function:
    """A pure function of flat tensors of these `primals`, and its rules.

    Attributes:
        name: Of the user's function and the rules applied to it.
        primals: Its arguments.
        outputs: Its results.
        settings: Those of the user's function.
        fun: What torch transforms.
        program: The same as a graph, if it was captured.
        observer: What the user's function does to gradients that not every transform knows of.
        uses_rng: Whether it draws random numbers.
        recorded: Whether torch.func refuses it: NOTE [two ways].
        batched: The same batched example by example, if it is a batched form.
        strategy: How it was derived, if it is a derivative.
        twin: The same by torch.func alone, if it was not derived by that: NOTE [two ways].
        check: What each call is held to beside its specs, if it runs anew.
        differentiable_fun: The same, its gradients open to a derivative, if it calls an
            autograd.Function: NOTE [gradients of gradients].
        whole: The same as the batch of a derivative, if it is the derivative of such a batch.
        unrecorded: Positions of the results that torch records no gradient of.
    """

    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    fun: Fun
    program: Program | None
    observer: GradientObserver
    uses_rng: bool
    recorded: bool = False
    batched: Batched | None = None
    strategy: Callable[..., Fun] | None = None
    twin: Fun | None = None
    check: Callable[[Any, Any], None] | None = None
    differentiable_fun: Fun | None = None
    whole_batch: "Callable[[], Batched] | None" = None
    unrecorded: frozenset[int] = frozenset()

    def make_op(self) -> Op:
        """The function as an Op."""
        if self.program:
            call = make_call(self.program, self.settings)
            into = make_call_into(self.program, self.settings)
        else:
            into = None
            call = run_eagerly(
                self.fun, self.outputs, self.check, name=self.name, settings=self.settings
            )
        return Op(
            name=self.name,
            framework="torch",
            call=call,
            call_into=into,
            output_specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).make_op(),
            jvp=lambda given: self.jvp(given).make_op(),
            vmap=lambda axes, size: self.vmap(axes, size).make_op(),
            forward_backward=self.forward_backward
            if self.program or can_save_graph(self)
            else None,
            uses_rng=self.uses_rng and self.settings.seed is None,
            reruns=self.program is None,
            dependencies=recorded_dependencies(self),
            fingerprint=self.program.fingerprint if self.program else None,
            graph=export_graph(self.program, self.settings) if self.program else None,
        )

    def vjp(self, argnums: Positions, outnums: Positions) -> "Function | Batched":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        if self.program is None and self.uses_rng and self.settings.seed is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, runs anew for its derivative, and would draw "
                "others. Let the function take a seed."
            )
        if self.strategy and self.whole_batch:
            return self.whole_batch().vjp(argnums, outnums)
        primals = (*self.primals, *(self.outputs[i] for i in outnums))
        accept = lambda found: accepts_gradients(self, found, argnums, outnums, primals)
        of_batch = lambda whole: whole.vjp(argnums, outnums)
        found = self._derived(
            "vjp", gradient_strategies(self, argnums, outnums), primals, of_batch, accept
        )
        if not isinstance(found, Function):
            return found
        if found.uses_rng and self.settings.seed is None:
            raise missing_key_error(self.name)
        found = self._with_differentiable_fun(found, recorded_vjp, (argnums, outnums), of_batch)
        if self.program:
            return found
        twin = transformed_vjp(self.twin or self.fun, len(self.primals), argnums, outnums)
        return dataclasses.replace(found, twin=twin)

    def jvp(self, argnums: Positions) -> "Function | Batched":
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        if self.strategy and self.whole_batch:
            return self.whole_batch().jvp(argnums)
        smooth = tuple(i for i, spec in enumerate(self.outputs) if spec.differentiable)
        primals = (*self.primals, *(self.primals[i] for i in argnums))
        accept = lambda found: accepts_tangents(self, found, argnums, smooth)
        of_batch = lambda whole: whole.jvp(argnums)
        found = self._derived(
            "jvp", tangent_strategies(self, argnums, smooth), primals, of_batch, accept
        )
        if not isinstance(found, Function):
            return found
        found = self._with_differentiable_fun(
            found, forward_strategy(self), (argnums, smooth), of_batch
        )
        if found.program or forward_strategy(self) is dual_jvp:
            return found
        outputs = tuple(self.outputs[i] for i in smooth)
        pull = self.vjp(argnums, smooth).make_op().call
        check = tangent_check(pull, outputs, len(self.primals), self.name)
        return dataclasses.replace(found, check=check)

    def vmap(self, axes: Axes, size: int) -> "Function | Batched":
        """The function mapped over `axes` of its arguments."""
        if self.observer.transforms or (
            self.uses_rng and has_seed_per_example(self.settings, axes)
        ):
            return make_batched(self, axes, size, LoopedBatch)
        # Torch batches the views in such a derivative, not those in one of torch.func.
        whole = make_batched(dataclasses.replace(self, recorded=True), axes, size, Batched)
        if self.recorded and self.program:
            return whole.check_rng()
        alone = make_batched(self, axes, size, LoopedBatch)
        if not self.program and (self.recorded or self.observer.hooked or self.observer.asked):
            return alone
        fun = vmapped(self.fun, axes, size, whole.randomness)
        primals = batched_specs(self.primals, axes, size)
        try:
            found = make_function(fun, f"{self.name}.vmap", primals, self._within_graphs)
        except (RuntimeError, NoValuesError):
            return whole.check_rng() if self.program else alone
        if self.is_seeded and not whole.same_draws(found.make_op()):
            return whole.check_rng()
        example = whole if self.program else alone
        found = dataclasses.replace(
            found,
            batched=example,
            observer=self.observer,
            settings=self.settings,
            unrecorded=self.unrecorded,
        )
        if self.differentiable_fun:
            whole_batch = lambda: example or alone
            found = dataclasses.replace(found, strategy=self.strategy, whole_batch=whole_batch)
        return found

    @property
    def _within_graphs(self) -> Settings:
        """The settings of what is no use unless it is captured, as this is."""
        return (
            dataclasses.replace(self.settings, capture="require") if self.program else self.settings
        )

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """The first derivative in two halves; `None` if it looks at values."""
        if self.strategy and self.whole_batch:
            return None
        if not self.program:
            if self.batched and not isinstance(self.vjp(argnums, outnums), Function):
                return None  # torch differentiates each example, and not the batch
            return save_graph(self, argnums).forward_backward(outnums)
        try:
            found = make_forward_backward(
                self.base_fun, self.name, self.primals, argnums, outnums, settings=self.settings
            )
        except NoValuesError:
            return None
        except RuntimeError as error:
            raise no_rule_error("derivative", self.name, error) from error
        if found and self.batched and self.observer.asked:
            each, how = self.batched.vjp(argnums, outnums).make_op(), {"primals": self.primals}
            seed = self.settings.seed
            if not same_gradients(self.make_op(), each, found, argnums, outnums, seed=seed, **how):
                return None
        return found

    @property
    def is_seeded(self) -> bool:
        """Whether its random numbers follow from a seed."""
        return self.uses_rng and self.settings.seed is not None and self.program is not None

    @property
    def is_second_order(self) -> bool:
        """Whether what is derived here is the derivative of a derivative."""
        return self.differentiable_fun is not None and (
            self.strategy is not None or self.observer.differentiates
        )

    @property
    def base_fun(self) -> Fun:
        """What it is derived from."""
        return (
            self.differentiable_fun
            if self.differentiable_fun and self.is_second_order
            else self.fun
        )

    def _with_differentiable_fun(
        self,
        found: "Function",
        way: Callable[..., Fun],
        about: tuple[Positions, Positions],
        of_batch: Callable[[Batched], Batched],
    ) -> "Function":
        """`found`, derived in some way from this, with what derivatives of it are taken of."""
        opened = self.differentiable_fun and way(self.differentiable_fun, len(self.primals), *about)
        whole = self.whole_batch
        return dataclasses.replace(
            found,
            differentiable_fun=opened,
            whole_batch=(lambda: of_batch(whole())) if whole else None,
        )

    def _derived(
        self,
        rule: str,
        made: Sequence[tuple[Fun, Callable[..., Any]]],
        primals: Specs,
        of_batch: Callable[[Batched], Batched],
        accept: "Callable[[Function], bool]",
    ) -> "Function | Batched":
        """The first of the derivatives `made` that torch takes: NOTE [two ways]."""
        refused: RuntimeError | None = None
        for fun, way in made:
            try:
                found = make_function(fun, f"{self.name}.{rule}", primals, self.settings)
            except RuntimeError as error:
                refused = error if refused is None or is_style_error(refused) else refused
            else:
                found = dataclasses.replace(found, strategy=way, observer=self.observer)
                if not accept(found):
                    refused = disagreement_error(self)
                    continue
                recorded = found.recorded or way in RECORDED
                return dataclasses.replace(found, recorded=recorded)
        if self.batched:
            return of_batch(self.batched)
        raise no_rule_error(rule, self.name, refused) from refused


def make_native(fun: Fun, name: str, primals: Specs, settings: Settings) -> Function:
    """The user's function with its rules."""
    try:  # as in training, lest it does something else there
        found = make_function(fun, name, primals, settings, training=True)
    except RuntimeError:  # some operators take no gradients, such as those of batch statistics
        found = make_function(fun, name, primals, settings)
    opened = with_differentiable_functions(fun, settings) if found.observer.functions else None
    return dataclasses.replace(found, differentiable_fun=opened)


def make_function(
    fun: Fun, name: str, primals: Specs, settings: Settings, *, training: bool = False
) -> Function:
    """`fun` with its rules, captured unless that is impossible or not wanted."""
    made = functools.partial(Function, name=name, primals=primals, fun=fun)
    if settings.capture != "never":
        program = _capture(fun, primals, name=name, settings=settings, training=training)
        if program:
            return made(
                outputs=program.outputs,
                settings=settings,
                program=program,
                observer=program.observer,
                uses_rng=program.uses_rng,
                recorded=program.observer.hooked or program.has_custom_ops,
                unrecorded=program.unrecorded,
            )
        settings = dataclasses.replace(settings, capture="never")
    seen = infer_outputs(fun, primals, settings=settings, training=training)
    return made(settings=settings, program=None, **vars(seen))


def _capture(
    fun: Fun, primals: Specs, *, name: str, settings: Settings, training: bool
) -> Program | None:
    """`fun` as a graph; `None`, with a warning, where it looks at values and may run anew."""
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
            f"{error} It runs anew on each call and for each derivative, on copies of its "
            'arguments; capture="never" asks for that, capture="require" refuses it.',
            stacklevel=user_stacklevel(),
        )
        return None
