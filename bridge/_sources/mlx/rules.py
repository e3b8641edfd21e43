"""The vjp, jvp and batched form of a function of MLX, each again such a function."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from bridge._arrays.mlx import begin, computing, owned
from bridge._core.errors import NoRuleError
from bridge._core.op import Arrays, Op, Positions, Specs, Split
from bridge._core.pytree import spread
from bridge._sources.mlx.batching import Axes, one_by_one, takes
from bridge._sources.mlx.call_checks import Looked
from bridge._sources.mlx.custom_rules import check_rules, has_forward_rules
from bridge._sources.mlx.forward_mode import (
    Push,
    by_rules,
    check_linear,
    forward,
    is_doubtful,
    twice_back,
)
from bridge._sources.mlx.graph_summary import Outline, is_wide
from bridge._sources.mlx.missing_rules import explained
from bridge._sources.mlx.native import Settings
from bridge._sources.mlx.nodes import separate
from bridge._sources.mlx.random import Fun, seeded_rules, state
from bridge._sources.mlx.residuals import Saving
from bridge._sources.mlx.upstream_bugs import check_gradient, check_unseen, safe_outline
from bridge._sources.mlx.value_checks import checked


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
    """

    name: str
    primals: Specs
    settings: Settings
    fun: Fun
    outputs: Specs
    outline: Outline | None
    gradient: bool = False
    ruled: bool = False
    run: Fun | None = None
    draws: bool = False
    captures: functools.partial[None] | None = None
    root: "Function | None" = None

    def op(self) -> Op:
        """The function as an Op."""
        known, lazy = self.outline, self._call(tuple)
        return Op(
            name=self.name,
            home="mlx",
            call=lazy if self._is_unshared() else self._call(owned),
            into=lambda _, xs: lazy(*xs),
            specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).op(),
            jvp=self.jvp,
            vmap=self.vmap,
            split=self.split if self._keeps() else None,
            reach=(lambda: known.reach) if known else None,
            anew=known is None,
            draws=self.draws,
        )

    def _call(self, own: Callable[[Sequence[mx.array]], Arrays]) -> Callable[..., Arrays]:
        """The function, whose results are passed through `own`."""
        run, check = self.run or self.fun, self._looked.check
        if self.outline is None:
            run = explained(self.name)(run)
        elif self.settings.compile:
            run = mx.compile(run)

        def call(*xs: mx.array) -> Arrays:
            before = state()
            outputs = own(run(*xs))
            begin(outputs)
            check(outputs, drew=state() is not before)
            return outputs

        def call_wide(*xs: mx.array) -> Arrays:
            with computing(wide=True):
                return call(*xs)

        return call_wide if is_wide(self.primals) else call

    @functools.cached_property
    def _looked(self) -> Looked:
        may_draw = self.draws or self.settings.seed is not None
        return Looked(self.outputs, self.name, may_draw, self.captures)

    def _is_unshared(self) -> bool:
        """Whether nobody else holds the memory of results: NOTE [gradients of our own]."""
        if self.settings.compile or self.outline is None:  # two may be compiled to one
            return False
        return self.gradient and self.outline.allocated

    def _is_by_rules(self) -> bool:
        """Whether a custom function takes part, whose rules may hold the gradients it returns."""
        return self.outline is None or "CustomTransforms" in self.outline.operations

    def vjp(self, wanted: Positions, given: Positions) -> "Function":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        self._check_gradient(wanted)
        count = len(self.primals)
        full, heard = _with_elements(self.primals, wanted), _with_elements(self.outputs, given)
        at = [count + given.index(i) for i in heard]
        self._check_rules(full, heard)

        def gradients(*args: mx.array) -> list[mx.array]:
            of_full = self._partial(args[:count], full, heard)
            return mx.vjp(of_full, [args[i] for i in full], [args[i] for i in at])[1]

        def some_empty(*args: mx.array) -> list[mx.array]:
            if not self.outline:  # which may return elements for these values, and is refused
                self._looked.held(self.fun(*args[:count]))
            found = dict(zip(full, gradients(*args), strict=True)) if full and heard else {}
            return [found[i] if i in found else mx.zeros_like(args[i]) for i in wanted]

        fun = gradients if (full, heard) == (wanted, given) else some_empty
        cotangents = (self.outputs[i] for i in given)
        specs = tuple(self.primals[i] for i in wanted)
        return self._derived("vjp", fun, (*self.primals, *cotangents), specs)

    def jvp(self, given: Positions) -> Op:
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        count = len(self.primals)
        smooth = _smooth(self.outputs)
        push = self._push(given, smooth)

        def tangents(*args: mx.array) -> list[mx.array]:
            of_given = self._partial(args[:count], given, smooth)
            return push(of_given, [args[i] for i in given], list(args[count:]))

        moving = tuple(self.primals[i] for i in given)
        specs = tuple(self.outputs[i] for i in smooth)
        return self._derived("jvp", tangents, (*self.primals, *moving), specs).op()

    def _push(self, given: Positions, smooth: Positions) -> Push:
        """The way to tangents of the outputs at `smooth` that is right."""
        known = self.outline
        doubtful = known is None or is_doubtful(self.fun, self.primals, known)
        if self._has_forward_rules:
            if known and doubtful:
                raise NoRuleError(
                    f"forward mode of {self.name} cannot be had: it has a forward rule of a custom "
                    "function, and mx.fft or mx.addmm, whose tangents MLX has wrong. Give these a "
                    "forward rule as well, or write a @ b + c for mx.addmm."
                )
            self._check_gradient(given, forward=True)
            return by_rules
        ruled = self._is_by_rules()
        self._check_gradient(given, forward=not (doubtful or ruled))
        if not (doubtful or ruled):
            return forward(lambda: self._check_gradient(given))
        if ruled:
            slope = self.vjp(given, smooth)
            check_linear(slope.fun, slope.primals, slope.outline, len(self.primals), self.name)
        return twice_back

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

    def _check_rules(self, wanted: Positions, given: Positions) -> None:
        if self._is_by_rules() and wanted and given:
            cotangents = tuple(self.outputs[i] for i in given)
            of_wanted = lambda args: self._partial(args, wanted, given)
            check_rules(of_wanted, self.primals, wanted, cotangents, self.name)

    def vmap(self, axes: Axes, size: int) -> Op:
        """The function mapped over `axes` of its arguments."""

        def of_example(*xs: mx.array) -> list[mx.array]:
            return separate(run(*xs))

        run = self.run or self.fun
        primals = [s.grown(axis, size) for s, axis in zip(self.primals, axes, strict=True)]
        specs = tuple(spec.grown(0, size) for spec in self.outputs)
        fun = batched = mx.vmap(of_example, in_axes=axes)
        wrong = self.outline is None or not (
            takes(run, batched, self.outline, axes, self.primals, tuple(primals), size)
        )
        if wrong or self._is_by_rules():
            strided = self.outline is not None and "AsStrided" in self.outline.operations
            fun = one_by_one(self.fun, axes, size, self.outputs, dense=strided)
        run_batch = fun if wrong else batched
        return self._derived("vmap", fun, tuple(primals), specs, run=run_batch).op()

    def split(self, wanted: Positions, given: Positions) -> Split | None:
        """The first derivative in two halves; `None` where there are gradients without elements."""
        sizes = _with_elements(self.primals, wanted), _with_elements(self.outputs, given)
        if sizes != (wanted, given):
            return None
        self._check_gradient(wanted)
        if self._is_by_rules() and self.vjp(wanted, given).outline is None:
            return None  # the rules of the user would look at cotangents that are not known yet
        if self._is_by_rules() and self.settings.seed is not None:
            return None  # they may draw, as they do where a gradient is computed anew
        saving = Saving(
            fun=self._unpeeled(self.fun),
            looked=self._looked,
            primals=self.primals,
            wanted=wanted,
            given=given,
            vjp=lambda wanted, given: self.vjp(wanted, given).op(),
        )
        return saving.split()

    def _partial(self, xs: Sequence[mx.array], free: Positions, wanted: Positions) -> Fun:
        """The outputs at `wanted` as a function of the primals at `free`."""
        whole, held = self._unpeeled(self.fun), self._looked.held

        def fun(*moving: mx.array) -> list[mx.array]:
            outputs = held(whole(*spread(moving, free, xs)))
            return separate([outputs[i] for i in wanted])

        return fun if self.outline else checked(fun, (free, wanted), self.name)

    def _unpeeled(self, fun: Fun) -> Fun:
        """`fun`, whatever transformations are in it: NOTE [copies peeled off]."""
        if self.outline and "Copy" not in self.outline.operations:
            return fun
        return lambda *xs: fun(*separate(xs))

    def _keeps(self) -> bool:
        """Whether a first derivative keeps a graph for its second half."""
        settings, known = self.settings, self.outline
        if known is None or settings.compile or settings.residuals == "recompute":
            return False
        largest = max((math.prod(s.shape) for s in (*self.primals, *self.outputs)), default=0)
        # What a second forward pass takes, and what it takes to keep a graph, in us.
        return settings.residuals == "save" or len(known.steps) * (1 + largest / 1000) > _KEEPING

    def _check_gradient(self, wanted: Positions, *, forward: bool = False) -> None:
        known = self.outline
        if known:
            check_gradient(self.fun, self.primals, known, self.name, wanted, forward=forward)
        else:
            check_unseen(self.primals, self.outputs, self.name)

    def _derived(
        self, rule: str, fun: Fun, primals: Specs, outputs: Specs, run: Fun | None = None
    ) -> "Function":
        if rule != "vmap" and self.settings.seed is not None and self._is_by_rules():
            fun = seeded_rules(fun, self.settings.seed)
        known = self.outline and safe_outline(fun, f"{self.name}.{rule}", primals)
        if known and known.draws and self.settings.seed is None:
            raise NoRuleError(
                f"a rule of a custom function in {self.name} draws random numbers, which would "
                "follow from nothing. Draw them in the function."
            )
        ruled = self.ruled or self._is_by_rules()
        return Function(
            name=f"{self.name}.{rule}",
            primals=primals,
            settings=self.settings,
            fun=fun,
            outputs=outputs,
            outline=known,
            gradient=rule == "vjp" and not ruled,
            ruled=ruled,
            run=run,
            root=self.root or self,
        )


_KEEPING = 40


def _with_elements(specs: Specs, positions: Positions) -> Positions:
    """Those of `positions` where there is something to compute: NOTE [empty arrays]."""
    return tuple([i for i in positions if 0 not in specs[i].shape])


def _smooth(specs: Specs) -> Positions:
    return tuple([i for i, spec in enumerate(specs) if spec.differentiable])
