"""Op: a function together with the rules that transform it.

An Op is closed under differentiation: its vjp is an Op, its jvp is an Op, and
so is its batched form. A target therefore learns one thing, how to call an Op,
and has derivatives of every order by calling the Ops its rules return.

NOTE [narrowing]
A caller without integers of 64 bits gets them in 32, as long as they fit. The Op for that returns
what it is given: `HomeFace.fill` looks at the values, and raises before anything is wrong.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph
from bridge._core.spec import NARROW_INTEGERS, ArraySpec

Arrays = tuple[Any, ...]
Specs = tuple[ArraySpec, ...]
Positions = tuple[int, ...]
# A rule by name with its arguments; of a split also which half, and the arguments of that.
AppliedRule = tuple[Any, ...]

_MOST_DERIVED = 256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """A pure function on flat arrays of one framework, with its rules.

    Gradients follow the convention of torch and MLX: for a real function of complex numbers
    they point uphill, that is, they are the conjugates of JAX's.

    Attributes:
        name: Shown in error messages, profiles and `grad_fn`.
        home: The framework whose arrays `call` takes and returns.
        call: `(*primals) -> outputs`. No output shares memory with a primal or another output.
        into: `(places, primals) -> outputs`, like `call`, given arrays like the outputs, in memory
            that nobody reads. It may write outputs there, and then returns those arrays. Others may
            share memory, since they are copied at once.
        specs: `(*input specs) -> output specs`; never looks at values.
        vjp: `(wanted, given) -> Op` on `(*primals, *cotangents)`: the gradients of the primals
            at the positions `wanted`, when the outputs at the positions `given` have cotangents
            and all others have none.
        jvp: `(given) -> Op` on `(*primals, *tangents)`: the tangents of the differentiable
            outputs, when the primals at the positions `given` have tangents.
        vmap: `(axes, size) -> Op` on inputs with one more axis where `axes` is no None, and
            with axis 0 added to every output.
        split: `(wanted, given) -> Split`, a first-order derivative that does not run `call` again;
            `None` where recomputing costs less. Then, and without the rule, a target calls `vjp`
            on the primals, which recomputes.
        reach: For each output the positions of the primals it depends on; without it, of all.
            A primal that is out of reach has no gradient, where zeros would be one.
        draws: Whether random numbers are drawn that follow from no primal.
        listing: `() -> Listing`, what `call` computes, written out: a target that can compile that
            does so, and calls nothing. Without it, `call` is called.
        expected: The outputs of a function that looks at values, as it was seen to return them: for
            a target that holds each call to that. Without it, `specs` tells.
        anew: Whether sizes of outputs may follow from values: `specs` tells of made-up ones, and
            `call` raises where others have other sizes.
        text: What it computes, but for the values of constants; alike in every process.
        steps: How it was derived from the Op that `derive` was first called on.
        notes: What its callers remember of earlier calls.
    """

    name: str
    framework: str
    call: Callable[..., Arrays]
    output_specs: Callable[..., Specs]
    call_into: Callable[[Sequence[Any], Sequence[Any]], Arrays] | None = None
    vjp: Callable[[Positions, Positions], "Op"] | None = None
    jvp: Callable[[Positions], "Op"] | None = None
    vmap: Callable[[tuple[int | None, ...], int], "Op"] | None = None
    forward_backward: Callable[[Positions, Positions], "ForwardBackward | None"] | None = None
    dependencies: Callable[[], Sequence[Set[int]]] | None = None
    uses_rng: bool = False
    observed_specs: Callable[[], Specs] | None = None
    reruns: bool = False
    fingerprint: Callable[[], str] | None = None
    derivation: tuple[AppliedRule, ...] = ()
    graph: Callable[[], Graph] | None = None

    notes: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)
    _derived: dict[tuple[Any, ...], Any] = dataclasses.field(default_factory=dict, repr=False)

    def derive(self, kind: str, *args: Any) -> Any:
        """The Op (or the Split) the rule `kind` returns for `args`, made once and then kept."""
        try:
            return self._derived[kind, args]
        except KeyError:
            pass
        rule = getattr(self, kind)
        if rule is None:
            raise NoRuleError(
                f"`{self.name}` has no {kind} rule, so it cannot be used under {kind}. "
                f"Pass `{kind}=` where the Op is made."
            )
        # Kept because a new Op is a new function to a compiler, which would compile it again;
        # not forever, because each size of a batch is one. The list is made in one step, and
        # two threads may both make an Op: setdefault lets every caller go on with the same.
        for oldest in list(self._derived)[: 1 - _MOST_DERIVED]:
            self._derived.pop(oldest, None)
        found = _with_derivation(rule(*args), (*self.derivation, (kind, *args)))
        return self._derived.setdefault((kind, args), found)

    def dependent_primals(self, outputs: Iterable[int], primals: Positions) -> Positions:
        """Those of `primals` that one of `outputs` depends on."""
        if self.dependencies is None:
            return primals
        reach = self.dependencies()
        together = frozenset[int]().union(*(reach[y] for y in outputs))
        return tuple(i for i in primals if i in together)

    def try_forward_backward(
        self, argnums: Positions, outnums: Positions
    ) -> "ForwardBackward | None":
        """The derivative in two halves; one that cannot be had may not be asked for either."""
        try:
            # What runs anew keeps more than arrays, and nobody here tells when that has been used.
            return (
                self.derive("forward_backward", argnums, outnums)
                if self.forward_backward and not self.reruns
                else None
            )
        except NoRuleError:
            return None

    def narrow_integers(self, output: int) -> "Op":
        """The Op from one of the outputs, integers of 64 bits, to the same in 32: NOTE [narrowing].

        It is derived as by a rule.
        """
        return _narrow_integers(
            f"result {output} of {self.name}", self.framework, self.output_specs()[output]
        )

    def replay(self, steps: Sequence[AppliedRule]) -> list["Op"]:
        """This Op and those that the `steps` lead to, one after the other."""
        row: list[Op] = [self]
        for kind, *args in steps:
            if kind != "forward_backward":
                row.append(row[-1].derive(kind, *args))
                continue
            wanted, given, half, *needed = args
            found = getattr(row[-1].derive("forward_backward", wanted, given), half)
            row.append(found(*needed) if needed else found)
        return row

    def residual_strategies(self) -> set[str]:
        """Which ways first derivatives have been taken."""
        splits = [split for (kind, _), split in self._derived.items() if kind == "forward_backward"]
        return {split.strategy if split else "recompute" for split in splits}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ForwardBackward:
    """A derivative in two halves, with what the first keeps for the second.

    A target whose calls can be batched after they were differentiated, as JAX's can, uses it if the
    halves have `vmap`. Both are made once: the same `needed` gives the same Op.

    Attributes:
        way: What is kept: `save` for residuals, `gradient` for gradients to be scaled.
        forward: Op on `(*primals)`: the outputs, then the residuals.
        backward: `(needed) -> Op` on `(*kept primals, *kept outputs, *residuals, *cotangents)`:
            the gradients of the primals at the positions `needed`.
        outputs: How many of forward's results are outputs; the others are residuals.
        kept_primals: Positions of the primals that are residuals themselves, so that nothing
            is copied.
        kept_outputs: Positions of the outputs that are residuals themselves.
        narrowed: `(needed, given) -> Op`, the backward half for cotangents of some of the outputs
            only, from the same residuals; `None` where that takes others. Without it, targets that
            cannot run the forward half again for fewer outputs recompute.
    """

    strategy: str
    forward: Op
    backward: Callable[[Positions], Op]
    output_count: int
    saved_primals: Positions
    saved_outputs: Positions
    backward_from: Callable[[Positions, Positions], Op | None] | None = None


def _narrow_integers(name: str, home: str, wide: ArraySpec) -> Op:
    small = dataclasses.replace(wide, dtype=NARROW_INTEGERS[wide.dtype])

    def vmap(axes: tuple[int | None, ...], size: int) -> Op:
        if axes != (0,):
            raise NoRuleError(f"{name} was batched along axis {axes[0]}, where results have 0.")
        return _narrow_integers(name, home, wide.with_axis(0, size))

    return Op(
        name=name, framework=home, call=lambda x: (x,), output_specs=lambda *_: (small,), vmap=vmap
    )


def _with_derivation(found: Any, steps: tuple[AppliedRule, ...]) -> Any:
    """What a rule returned, with the steps that led to it."""
    if isinstance(found, Op):
        return dataclasses.replace(found, derivation=steps)
    if not isinstance(found, ForwardBackward):
        return found

    def half(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        # Kept, so that the same arguments give the same Op.
        return functools.cache(
            lambda *args: _with_derivation(make(*args), (*steps[:-1], (*steps[-1], name, *args)))
        )

    return dataclasses.replace(
        found,
        forward=half("forward", lambda: found.forward)(),
        backward=half("backward", found.backward),
        backward_from=found.backward_from and half("backward_from", found.backward_from),
    )
