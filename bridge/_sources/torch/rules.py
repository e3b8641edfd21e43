"""The vjp, jvp and batched form of a function of torch, each again such a function."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import Op, Positions, Specs, Split
from bridge._core.tracebacks import user_level
from bridge._sources.torch.autodiff.consistency import (
    accepts_gradients,
    accepts_tangents,
    disagreement,
    no_rule,
)
from bridge._sources.torch.autodiff.differentiable_functions import followed
from bridge._sources.torch.autodiff.eager import anew, held_to, outline
from bridge._sources.torch.autodiff.forward_backward import split
from bridge._sources.torch.autodiff.saved_graphs import keeping, keeps
from bridge._sources.torch.autodiff.strategies import RECORDED, forward, gradients, tangents
from bridge._sources.torch.autodiff.transforms import (
    dual_jvp,
    mapped,
    recorded_vjp,
    transformed_vjp,
)
from bridge._sources.torch.batching.loop_vmap import Axes, grown, seeds_differ
from bridge._sources.torch.batching.rng_consistency import keyless_gradient, same_gradients
from bridge._sources.torch.batching.vmap import Batched, Looped, batched
from bridge._sources.torch.capture.graph_export import listed
from bridge._sources.torch.capture.trace import Fun, trace
from bridge._sources.torch.internals import Blocks, is_about_style
from bridge._sources.torch.program import Program, Settings, executed, written


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
        blocks: What the user's function does to gradients that not every transform knows of.
        draws: Whether it draws random numbers.
        recorded: Whether torch.func refuses it: NOTE [two ways].
        batched: The same batched example by example, if it is a batched form.
        way: How it was derived, if it is a derivative.
        twin: The same by torch.func alone, if it was not derived by that: NOTE [two ways].
        check: What each call is held to beside its specs, if it runs anew.
        open: The same, its gradients open to a derivative, if it calls an autograd.Function:
            NOTE [gradients of gradients].
        whole: The same as the batch of a derivative, if it is the derivative of such a batch.
    """

    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    fun: Fun
    program: Program | None
    blocks: Blocks
    draws: bool
    recorded: bool = False
    batched: Batched | None = None
    way: Callable[..., Fun] | None = None
    twin: Fun | None = None
    check: Callable[[Any, Any], None] | None = None
    open: Fun | None = None
    whole: "Callable[[], Batched] | None" = None

    def op(self) -> Op:
        """The function as an Op."""
        if self.program:
            call = executed(self.program, self.settings)
            into = written(self.program, self.settings)
        else:
            into = None
            call = anew(self.fun, self.outputs, self.check, name=self.name, settings=self.settings)
        return Op(
            name=self.name,
            home="torch",
            call=call,
            into=into,
            specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).op(),
            jvp=lambda given: self.jvp(given).op(),
            vmap=lambda axes, size: self.vmap(axes, size).op(),
            split=self.split if self.program or keeps(self) else None,
            draws=self.draws and self.settings.seed is None,
            anew=self.program is None,
            reach=self.program.reach if self.program else None,
            text=self.program.text if self.program else None,
            listing=listed(self.program, self.settings) if self.program else None,
        )

    def vjp(self, wanted: Positions, given: Positions) -> "Function | Batched":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        if self.program is None and self.draws and self.settings.seed is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, runs anew for its derivative, and would draw "
                "others. Let the function take a seed."
            )
        if self.way and self.whole:
            return self.whole().vjp(wanted, given)
        primals = (*self.primals, *(self.outputs[i] for i in given))
        accept = lambda found: accepts_gradients(self, found, wanted, given, primals)
        of_batch = lambda whole: whole.vjp(wanted, given)
        found = self._derived("vjp", gradients(self, wanted, given), primals, of_batch, accept)
        if not isinstance(found, Function):
            return found
        if found.draws and self.settings.seed is None:
            raise keyless_gradient(self.name)
        found = self._opened(found, recorded_vjp, (wanted, given), of_batch)
        if self.program:
            return found
        twin = transformed_vjp(self.twin or self.fun, len(self.primals), wanted, given)
        return dataclasses.replace(found, twin=twin)

    def jvp(self, given: Positions) -> "Function | Batched":
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        if self.way and self.whole:
            return self.whole().jvp(given)
        smooth = tuple(i for i, spec in enumerate(self.outputs) if spec.differentiable)
        primals = (*self.primals, *(self.primals[i] for i in given))
        accept = lambda found: accepts_tangents(self, found, given, smooth)
        of_batch = lambda whole: whole.jvp(given)
        found = self._derived("jvp", tangents(self, given, smooth), primals, of_batch, accept)
        if not isinstance(found, Function):
            return found
        found = self._opened(found, forward(self), (given, smooth), of_batch)
        if found.program or forward(self) is dual_jvp:
            return found
        outputs = tuple(self.outputs[i] for i in smooth)
        pull = self.vjp(given, smooth).op().call
        check = held_to(pull, outputs, len(self.primals), self.name)
        return dataclasses.replace(found, check=check)

    def vmap(self, axes: Axes, size: int) -> "Function | Batched":
        """The function mapped over `axes` of its arguments."""
        if self.blocks.transforms or (self.draws and seeds_differ(self.settings, axes)):
            return batched(self, axes, size, Looped)
        # Torch batches the views in such a derivative, not those in one of torch.func.
        whole = batched(dataclasses.replace(self, recorded=True), axes, size, Batched)
        if self.recorded and self.program:
            return whole.checked()
        alone = batched(self, axes, size, Looped)
        if not self.program and (self.recorded or self.blocks.hooked or self.blocks.asked):
            return alone
        fun = mapped(self.fun, axes, size, whole.randomness)
        primals = grown(self.primals, axes, size)
        try:
            found = function(fun, f"{self.name}.vmap", primals, self._within_graphs)
        except (RuntimeError, NoValuesError):
            return whole.checked() if self.program else alone
        if self.seeded and not whole.draws_alike(found.op()):
            return whole.checked()
        example = whole if self.program else None
        found = dataclasses.replace(
            found, batched=example, blocks=self.blocks, settings=self.settings
        )
        derived = {"way": self.way, "whole": lambda: example or alone} if self.open else {}
        return dataclasses.replace(found, **derived)

    @property
    def _within_graphs(self) -> Settings:
        """The settings of what is no use unless it is captured, as this is."""
        return (
            dataclasses.replace(self.settings, capture="require") if self.program else self.settings
        )

    def split(self, wanted: Positions, given: Positions) -> Split | None:
        """The first derivative in two halves; `None` if it looks at values."""
        if self.way and self.whole:
            return None
        if not self.program:
            return keeping(self, wanted).split(given)
        try:
            found = split(self.base, self.name, self.primals, wanted, given, settings=self.settings)
        except NoValuesError:
            return None
        except RuntimeError as error:
            raise no_rule("derivative", self.name, error) from error
        if found and self.batched and self.blocks.asked:
            each, how = self.batched.vjp(wanted, given).op(), {"primals": self.primals}
            seed = self.settings.seed
            if not same_gradients(self.op(), each, found, wanted, given, seed=seed, **how):
                return None
        return found

    @property
    def seeded(self) -> bool:
        """Whether its random numbers follow from a seed."""
        return self.draws and self.settings.seed is not None and self.program is not None

    @property
    def again(self) -> bool:
        """Whether what is derived here is the derivative of a derivative."""
        return self.open is not None and (self.way is not None or self.blocks.differentiates)

    @property
    def base(self) -> Fun:
        """What it is derived from."""
        return self.open if self.open and self.again else self.fun

    def _opened(
        self,
        found: "Function",
        way: Callable[..., Fun],
        about: tuple[Positions, Positions],
        of_batch: Callable[[Batched], Batched],
    ) -> "Function":
        """`found`, derived in some way from this, with what derivatives of it are taken of."""
        opened = self.open and way(self.open, len(self.primals), *about)
        whole = self.whole
        return dataclasses.replace(
            found, open=opened, whole=(lambda: of_batch(whole())) if whole else None
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
                found = function(fun, f"{self.name}.{rule}", primals, self.settings)
            except RuntimeError as error:
                refused = error if refused is None or is_about_style(refused) else refused
            else:
                found = dataclasses.replace(found, way=way, blocks=self.blocks)
                if not accept(found):
                    refused = disagreement(self)
                    continue
                recorded = found.recorded or way in RECORDED
                return dataclasses.replace(found, recorded=recorded)
        if self.batched:
            return of_batch(self.batched)
        raise no_rule(rule, self.name, refused) from refused


def native(fun: Fun, name: str, primals: Specs, settings: Settings) -> Function:
    """The user's function with its rules."""
    try:  # as in training, lest it does something else there
        found = function(fun, name, primals, settings, training=True)
    except RuntimeError:  # some operators take no gradients, such as those of batch statistics
        found = function(fun, name, primals, settings)
    opened = followed(fun, settings) if found.blocks.functions else None
    return dataclasses.replace(found, open=opened)


def function(
    fun: Fun, name: str, primals: Specs, settings: Settings, *, training: bool = False
) -> Function:
    """`fun` with its rules, captured unless that is impossible or not wanted."""
    made = functools.partial(Function, name=name, primals=primals, fun=fun)
    if settings.capture != "never":
        program = _captured(fun, primals, name=name, settings=settings, training=training)
        if program:
            return made(
                outputs=program.outputs,
                settings=settings,
                program=program,
                blocks=program.blocks,
                draws=program.draws,
                recorded=program.blocks.hooked or program.foreign,
            )
        settings = dataclasses.replace(settings, capture="never")
    outputs, draws, blocks = outline(fun, primals, settings=settings)
    return made(outputs=outputs, settings=settings, program=None, blocks=blocks, draws=draws)


def _captured(
    fun: Fun, primals: Specs, *, name: str, settings: Settings, training: bool
) -> Program | None:
    """`fun` as a graph; `None`, with a warning, where it looks at values and may run anew."""
    try:
        return trace(fun, primals, name=name, settings=settings, training=training)
    except NoValuesError as error:
        if settings.listed:
            raise NoValuesError(
                f'{error} Without a graph there is nothing that lower="xla" could compile: '
                'rewrite it, by torch.where say, or let torch compute with lower="ffi".'
            ) from error
        if settings.capture == "require":
            raise
        warnings.warn(
            f"{error} It runs anew on each call and for each derivative, on copies of its "
            'arguments; capture="never" asks for that, capture="require" refuses it.',
            stacklevel=user_level(),
        )
        return None
