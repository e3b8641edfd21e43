"""Op: a function together with the rules that transform it.

An Op is closed under differentiation: its vjp is an Op, its jvp is an Op, and
so is its batched form. A target therefore learns one thing, how to call an Op,
and has derivatives of every order by calling the Ops its rules return.

NOTE [narrow integers]
A caller without integers of 64 bits gets them in 32, as long as they fit. The Op that does so
returns its argument unchanged: `SourceArrays.execute_into` checks the values while it writes them,
and raises before a wrong one can be read.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from bridge._core.captured_state import CapturedState
from bridge._core.description import Description
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph, MappedGraph
from bridge._core.spec import NARROW_INTEGERS, ArraySpec

Arrays = tuple[Any, ...]
Specs = tuple[ArraySpec, ...]
Positions = tuple[int, ...]
Axes = tuple[int | None, ...]  # for each array the axis of its examples, None if all share it
# The name of a rule and its arguments; for a half of a ForwardBackward also the half and its own.
AppliedRule = tuple[Any, ...]

_MOST_DERIVED = 1024


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rules:
    """The rules of an Op, each optional; where one is missing, `derive` raises.

    Attributes:
        vjp: `(argnums, outnums) -> Op` on `(*primals, *cotangents)`: the gradients of the primals
            at `argnums`, given cotangents of the outputs at `outnums`. All others have none.
        jvp: `(argnums) -> Op` on `(*primals, *tangents)`: the tangents of the differentiable
            outputs, given tangents of the primals at `argnums`.
        vmap: `(axes, size) -> Op`: an input has one more axis where `axes` is not None, and every
            output has a new axis 0.
        forward_backward: `(argnums, outnums) -> ForwardBackward`, a first derivative whose backward
            does not run `call` again; `None` where recomputing costs less. If the rule is missing
            or returns None, a target recomputes: it calls the vjp on the primals.
    """

    vjp: Callable[[Positions, Positions], "Op"] | None = None
    jvp: Callable[[Positions], "Op"] | None = None
    vmap: Callable[[Axes, int], "Op"] | None = None
    forward_backward: Callable[[Positions, Positions], "ForwardBackward | None"] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Traits:
    """Facts about an Op by which a target calls it faster, or refuses it; each is optional.

    Attributes:
        call_into: `(buffers, primals) -> outputs`, like `call`. The buffers are arrays like the
            outputs; `call_into` may write outputs there and return them. Its other outputs may
            share memory, since its caller copies them at once.
        dependencies: For each output, the positions of the primals it may have a derivative by; if
            missing, all. A primal without any has no gradient, where it would be zeros.
        uses_global_rng: True if it draws random numbers that do not follow from a primal.
        observed_specs: The specs that a function which looks at values was seen to return, for a
            target that checks every call against them. If missing, `output_specs` is exact.
        reruns: True if sizes of outputs can depend on values. `output_specs` then tells the sizes
            for example inputs, and `call` raises where values have others.
        fingerprint: Text that identifies the computation, except for the values of constants; the
            same in every process.
        graph: `() -> Graph`, the operations of `call`, for a target that compiles them instead of
            calling `call`.
        knows_outputs: `() -> bool`, False as long as `output_specs` would have to run the function
            for example inputs. A target that can calls it first. If missing, always True. Where it
            is not, a pair saves nothing but primals and outputs.
        captured_state: `() -> CapturedState`, what it captures now, if that can change. A target
            reads it before a call, and computes derivatives of the call on it.
        description: `() -> Description`, what a reader is told about it.
    """

    call_into: Callable[[Sequence[Any], Sequence[Any]], Arrays] | None = None
    dependencies: Callable[[], Sequence[Set[int]]] | None = None
    uses_global_rng: bool = False
    observed_specs: Callable[[], Specs] | None = None
    reruns: bool = False
    fingerprint: Callable[[], str] | None = None
    graph: Callable[[], Graph | MappedGraph] | None = None
    knows_outputs: Callable[[], bool] | None = None
    captured_state: Callable[[], CapturedState] | None = None
    description: Callable[[], Description] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Op:
    """A pure function on flat arrays of one framework, with its rules.

    Gradients follow the convention of torch and MLX: the gradient of a real function of complex
    numbers points uphill. JAX has its conjugate.

    Attributes:
        name: Shown in error messages, profiles and `grad_fn`.
        framework: The framework whose arrays `call` takes and returns.
        call: `(*primals) -> outputs`. No output shares memory with a primal or another output.
        output_specs: `(*input specs) -> output specs`, without looking at values.
        rules: Its derivatives and its batched form, as functions that make Ops.
        traits: Other facts about it.
        derivation: The rules that led here from the Op that `derive` was first called on.
    """

    name: str
    framework: str
    call: Callable[..., Arrays]
    output_specs: Callable[..., Specs]
    rules: Rules = Rules()
    traits: Traits = Traits()
    derivation: tuple[AppliedRule, ...] = ()

    _caches: dict["OpCache", dict[Any, Any]] = dataclasses.field(
        default_factory=dict["OpCache", dict[Any, Any]], repr=False
    )
    _derived: dict[tuple[Any, ...], Any] = dataclasses.field(default_factory=dict, repr=False)

    def read_state(self) -> CapturedState | None:
        """Return the state that it captures now; None if that cannot change."""
        read = self.traits.captured_state
        return read() if read else None

    def derive(self, kind: str, *args: Any) -> Any:
        """Return what the rule `kind` makes of `args`, an Op or a ForwardBackward, from a cache."""
        try:
            return self._derived[kind, args]
        except KeyError:
            pass
        every_op_has_it = kind == "narrow_integers"
        rule = self.narrow_integers if every_op_has_it else getattr(self.rules, kind)
        if rule is None:
            raise NoRuleError(
                f"`{self.name}` has no {kind} rule, so it cannot be used under {kind}. "
                f"Pass `{kind}=` where the Op is made."
            )
        # Cached because a compiler compiles each new Op again. Bounded because each batch size is
        # one more. `list` copies in one step, and `setdefault` gives threads that make the same
        # Op at the same time one and the same.
        for oldest in list(self._derived)[: 1 - _MOST_DERIVED]:
            self._derived.pop(oldest, None)
        derived = _with_derivation(rule(*args), (*self.derivation, (kind, *args)))
        return self._derived.setdefault((kind, args), derived)

    def dependent_primals(self, outnums: Iterable[int], argnums: Positions) -> Positions:
        """Return those of `argnums` that an output at `outnums` depends on."""
        if self.traits.dependencies is None:
            return argnums
        dependencies = self.traits.dependencies()
        union = frozenset[int]().union(*(dependencies[i] for i in outnums))
        return tuple(i for i in argnums if i in union)

    def dependent_outputs(self, outnums: Iterable[int], argnums: Positions) -> Positions:
        """Return those of `outnums` that depend on a primal at `argnums`."""
        return tuple([i for i in outnums if self.dependent_primals([i], argnums)])

    def try_forward_backward(
        self, argnums: Positions, outnums: Positions
    ) -> "ForwardBackward | None":
        """Return the forward/backward pair, or `None` if the source has no such derivative."""
        # An Op that reruns saves more than arrays, and no caller says when that can be freed.
        if self.rules.forward_backward is None or self.traits.reruns:
            return None
        try:
            return self.derive("forward_backward", argnums, outnums)
        except NoRuleError:
            return None

    def narrow_integers(self, outnum: int) -> "Op":
        """Make the Op that turns one output, 64-bit integers, into 32 bits: NOTE [narrow integers].

        `derive` takes it for a rule.
        """
        name, spec = f"result {outnum} of {self.name}", self.output_specs()[outnum]
        return _narrow_integers(name, self.framework, spec)

    def derive_chain(self, derivation: Sequence[AppliedRule]) -> list["Op"]:
        """Return this Op and each Op that the rules of `derivation` lead to."""
        ops: list[Op] = [self]
        for kind, *args in derivation:
            if kind != "forward_backward":
                ops.append(ops[-1].derive(kind, *args))
                continue
            argnums, outnums, half, *half_args = args
            op_or_maker = getattr(ops[-1].derive(kind, argnums, outnums), half)
            ops.append(op_or_maker(*half_args) if half_args else op_or_maker)
        return ops

    def used_strategies(self) -> set[str]:
        """Return the strategies by which first derivatives have been taken so far."""
        pairs = [pair for (kind, _), pair in self._derived.items() if kind == "forward_backward"]
        return {pair.strategy if pair else "recompute" for pair in pairs}


class OpCache:
    """A cache of one caller, with entries for Ops that live as long as these.

    It is stored in the Op, to which its entries refer: a dict with weak keys, whose values refer to
    the keys, would keep both for ever.
    """

    def of(self, op: Op) -> dict[Any, Any]:
        """Return what is stored about `op`."""
        caches = op._caches  # pyright: ignore[reportPrivateUsage]
        try:
            return caches[self]
        except KeyError:
            return caches.setdefault(self, {})

    @staticmethod
    def copy_without_caches(op: Op) -> Op:
        """Copy `op` without what is stored about it: Ops derived from the copy are others."""
        return dataclasses.replace(op, _caches={}, _derived={})

    @staticmethod
    def copy_for_reading(op: Op) -> Op:
        """Copy `op` with what is stored about it; what is added then is stored in the copy."""
        caches, derived = op._caches, op._derived  # pyright: ignore[reportPrivateUsage]
        copies = {cache: dict(entries) for cache, entries in list(caches.items())}
        return dataclasses.replace(op, _caches=copies, _derived=dict(derived))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ForwardBackward:
    """A derivative in two halves: the forward saves what the backward needs.

    A target whose calls can be batched after they were differentiated, as those of JAX can, uses
    the pair if both halves have `vmap`. The same arguments give the same Op.

    Attributes:
        strategy: `save` if residuals are saved, `gradient` if gradients for the cotangent 1 are,
            one for each primal at `argnums`, to be multiplied, `outputs` if nothing but primals and
            outputs is, for gradients that can be differentiated again, and `recompute` if there are
            no residuals but what says how to run the function again.
        forward: Op on `(*primals)`: the outputs, then the residuals.
        backward: `(argnums) -> Op` on `(*saved primals, *saved outputs, *residuals, *cotangents)`:
            the gradients of the primals at `argnums`.
        output_count: How many results of `forward` are outputs; the others are residuals.
        saved_primals: Positions of the primals that are residuals themselves, so that nothing
            is copied.
        saved_outputs: Positions of the outputs that are residuals themselves.
        backward_from: `(argnums, outnums) -> Op`, the backward for cotangents of some of the
            outputs only, from the same residuals; `None` where it needs other residuals. Without
            it, targets that cannot run the forward again for fewer outputs recompute.
        tangents: `(argnums) -> Op` on `(*saved primals, *saved outputs, *residuals, *tangents)`:
            the tangents, where these need residuals too.
        holds_values: False if a residual stands for something that this process holds, which a
            backward may use up. Otherwise the backward can run on copies, and in other processes.
    """

    strategy: str
    forward: Op
    backward: Callable[[Positions], Op]
    output_count: int
    saved_primals: Positions
    saved_outputs: Positions
    backward_from: Callable[[Positions, Positions], Op | None] | None = None
    tangents: Callable[[Positions], Op] | None = None
    holds_values: bool = True


def _narrow_integers(name: str, framework: str, spec: ArraySpec) -> Op:
    narrow = dataclasses.replace(spec, dtype=NARROW_INTEGERS[spec.dtype])

    def vmap(axes: Axes, size: int) -> Op:
        if axes != (0,):
            raise NoRuleError(f"{name} was batched along axis {axes[0]}, where results have 0.")
        return _narrow_integers(name, framework, spec.with_axis(0, size))

    return Op(
        name=name,
        framework=framework,
        call=lambda x: (x,),
        output_specs=lambda *_: (narrow,),
        rules=Rules(vmap=vmap),
    )


def _with_derivation(derived: Any, derivation: tuple[AppliedRule, ...]) -> Any:
    """Return what a rule returned, with a record of the rules that led to it."""
    if isinstance(derived, Op):
        return dataclasses.replace(derived, derivation=derivation)
    if not isinstance(derived, ForwardBackward):
        return derived

    def half(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        # Cached, so that the same arguments give the same Op.
        return functools.cache(
            lambda *args: _with_derivation(
                make(*args), (*derivation[:-1], (*derivation[-1], name, *args))
            )
        )

    return dataclasses.replace(
        derived,
        forward=half("forward", lambda: derived.forward)(),
        backward=half("backward", derived.backward),
        backward_from=derived.backward_from and half("backward_from", derived.backward_from),
        tangents=derived.tangents and half("tangents", derived.tangents),
    )
