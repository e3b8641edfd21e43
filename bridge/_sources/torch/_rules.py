"""The vjp, jvp and batched form of a function of torch, each again such a function."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge._errors import NoRuleError, NoValuesError
from bridge._op import Op, Positions, Specs, Split
from bridge._sources.torch._batched import Batched, Looped, batched
from bridge._sources.torch._capture import Fun, trace
from bridge._sources.torch._draws import OTHER_DRAWS, same, same_gradients, same_tangents
from bridge._sources.torch._eager import DISAGREE, anew, held_to, outline, transposed
from bridge._sources.torch._internals import Blocks
from bridge._sources.torch._listing import listed
from bridge._sources.torch._looped import Axes, grown, seeds_differ
from bridge._sources.torch._program import Program, Settings, executed, written
from bridge._sources.torch._split import split
from bridge._sources.torch._styles import (
    mapped,
    recorded_jvp,
    recorded_vjp,
    transformed_jvp,
    transformed_vjp,
    transposed_jvp,
)


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
            split=self.split if self.program else None,
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
        ways = [recorded_vjp] if self._plain else [transformed_vjp, recorded_vjp]
        primals = (*self.primals, *(self.outputs[i] for i in given))
        made = [(way(self.fun, len(self.primals), wanted, given), way) for way in ways]

        def draws_alike(found: Function) -> bool:
            if self.batched and self.blocks.asked:
                each = self.batched.vjp(wanted, given).program
                return found.program is not None and same(found.program.run, each.run, primals)
            split = self.split(wanted, given) if self._seeded else None
            if split is None:
                return True
            seed = self.settings.seed or 0
            halves = self.op(), found.op(), split
            return same_gradients(*halves, wanted, given, primals=self.primals, seed=seed)

        of_batch = lambda whole: whole.vjp(wanted, given)
        found = self._derived("vjp", made, primals, of_batch, draws_alike)
        if self.program or not isinstance(found, Function):
            return found
        twin = transformed_vjp(self.twin or self.fun, len(self.primals), wanted, given)
        return dataclasses.replace(found, twin=twin)

    def jvp(self, given: Positions) -> "Function | Batched":
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        ways = [transformed_jvp, transposed_jvp, recorded_jvp]
        if not self.program:  # nothing would tell whether a gradient is linear
            ways = [transformed_jvp]
        elif self.recorded:
            ways = [recorded_jvp]
        elif self.blocks.unrecorded:
            ways = [transposed_jvp, recorded_jvp]
        smooth = tuple(i for i, spec in enumerate(self.outputs) if spec.differentiable)
        primals = (*self.primals, *(self.primals[i] for i in given))
        fun = self.twin or self.fun
        made = [(way(fun, len(self.primals), given, smooth), way) for way in ways]

        def agrees(found: Function) -> bool:
            if not self._seeded:
                return self._transposes(found, given, smooth)
            both, seed = (self.op(), found.op()), self.settings.seed or 0
            return same_tangents(*both, given, smooth, primals=self.primals, seed=seed)

        of_batch = lambda whole: whole.jvp(given)
        found = self._derived("jvp", made, primals, of_batch, agrees)
        if not isinstance(found, Function) or found.program:
            return found
        gradients = self.vjp(given, smooth).op().call
        outputs = tuple(self.outputs[i] for i in smooth)
        check = held_to(gradients, outputs, len(self.primals), self.name)
        return dataclasses.replace(found, check=check)

    def vmap(self, axes: Axes, size: int) -> "Function | Batched":
        """The function mapped over `axes` of its arguments."""
        if self.draws and seeds_differ(self.settings, axes):
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
            found = function(fun, f"{self.name}.vmap", primals, self.settings)
        except (RuntimeError, NotImplementedError):
            return whole.checked() if self.program else alone
        if self._seeded and not whole.draws_alike(found.op()):
            return whole.checked()
        example = whole if self.program else None
        return dataclasses.replace(found, batched=example, blocks=self.blocks)

    def split(self, wanted: Positions, given: Positions) -> Split | None:
        """The first derivative in two halves; `None` if it looks at values."""
        try:
            found = split(self.fun, self.name, self.primals, wanted, given, settings=self.settings)
        except NoValuesError:
            return None
        except RuntimeError as error:
            raise _no_rule("derivative", self.name, error) from error
        if self.batched and self.blocks.asked:
            each, how = self.batched.vjp(wanted, given).op(), {"primals": self.primals}
            seed = self.settings.seed
            if not same_gradients(self.op(), each, found, wanted, given, seed=seed, **how):
                return None
        return found

    def _disagrees(self) -> str:
        return OTHER_DRAWS if self._seeded else DISAGREE

    @property
    def _seeded(self) -> bool:
        return self.draws and self.settings.seed is not None and self.program is not None

    @property
    def _plain(self) -> bool:
        return self.recorded or self.program is None

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
                refused = refused or error
            else:
                found = dataclasses.replace(found, way=way, blocks=self.blocks)
                if not accept(found):
                    refused = NoRuleError(self._disagrees())
                    continue
                recorded = found.recorded or way in (recorded_vjp, recorded_jvp)
                return dataclasses.replace(found, recorded=recorded)
        if self.batched:
            return of_batch(self.batched)
        raise _no_rule(rule, self.name, refused) from refused

    def _transposes(self, tangents: "Function", given: Positions, smooth: Positions) -> bool:
        """Whether these are the tangents that go with the gradients; raises if none can be."""
        if tangents.way is not transformed_jvp:
            self._check_linear(tangents, smooth)
        gradients = self.vjp(given, smooth)
        moving = tuple(self.primals[i] for i in given)
        cotangents = tuple(self.outputs[i] for i in smooth)
        both = tangents.op().call, gradients.op().call
        return transposed(*both, self.primals, moving, cotangents)

    def _check_linear(self, tangents: "Function", smooth: Positions) -> None:
        """Raise unless there are tangents: NOTE [tangents from gradients]."""
        primals = (*tangents.primals, *(self.outputs[i] for i in smooth))
        count = len(tangents.primals)
        try:
            program = trace(tangents.fun, primals, name=tangents.name, settings=self.settings)
        except NoValuesError as error:
            raise _no_rule("jvp", self.name, NoRuleError(DISAGREE)) from error
        if any(max(positions, default=0) >= count for positions in program.reach()):
            raise NoRuleError(
                f"{self.name} has no tangents: torch has no forward formula for it, and an "
                "autograd.Function or a custom operator in it has a gradient that is not linear "
                "in the cotangent, as where gradients are clipped. Give that a jvp, or use "
                "reverse mode."
            )


def _no_rule(rule: str, name: str, error: Exception | None) -> NoRuleError:
    return NoRuleError(f"torch has no {rule} of {name}: {error}")


def native(fun: Fun, name: str, primals: Specs, settings: Settings) -> Function:
    """The user's function with its rules."""
    try:  # as in training, lest it does something else there
        return function(fun, name, primals, settings, training=True)
    except RuntimeError:  # some operators take no gradients, such as those of batch statistics
        return function(fun, name, primals, settings)


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
            stacklevel=3,
        )
        return None
