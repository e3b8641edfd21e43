"""What the forward pass of an Op does and keeps, given which primals want gradients.

NOTE [outputs nobody uses]
An output without cotangent must not take part in the backward pass: zeros in its place would be
multiplied by what may be infinite. So a split is made for the outputs that are used. Which these
are shows only in the backward pass: the first time all are assumed to be, and if that was wrong,
the gradients are recomputed from the primals, and the next forward pass knows better.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from bridge._core.op import Op, Positions, Split

Flags = tuple[bool, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Route:
    """A backward pass.

    Attributes:
        needed: Positions of the primals that get gradients.
        op: What is evaluated, `None` where there is nothing to be had.
        split: Whether on residuals; otherwise on the primals.
    """

    needed: Positions
    op: Op | None
    split: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A forward pass.

    Attributes:
        flags: For each input, the Op and what runs it in front, whether it wants a gradient.
        wanted: Positions of those that do.
        given: Positions of the outputs that are expected to have cotangents.
        split: Both halves of the derivative; `None` where the backward pass recomputes.
        forward: What is evaluated.
        smooth: Positions of the outputs of a differentiable dtype.
        fixed: Positions of the outputs that no gradient can reach.
        outputs: Positions of all outputs.
        routes: The backward passes so far.
    """

    flags: Flags
    wanted: Positions
    given: Positions
    split: Split | None
    forward: Op
    smooth: Positions
    fixed: Positions
    outputs: Positions
    routes: dict[tuple[Flags, Positions], Route] = dataclasses.field(default_factory=dict)

    def unreached(self, op: Op, primals: Iterable[int]) -> Positions:
        """The outputs of `op` that none of `primals` reaches by a derivative."""
        return _fixed(op, self.smooth, self.outputs, tuple(primals))


def recipe(op: Op, flags: Flags) -> Recipe:
    """The forward pass of `op`, made once and then kept."""
    found = op.notes.get(flags)
    return found if found is not None else _make(op, flags, None)


def route(op: Op, made: Recipe, flags: Flags, given: Positions) -> Route:
    """The backward pass to the primals of these flags from the outputs `given`, kept likewise."""
    found = made.routes.get((flags, given))
    if found is None:
        found = made.routes[flags, given] = _route(op, made, flags, given)
    if made.split and given != made.given:
        _make(op, made.flags, given)  # NOTE [outputs nobody uses]
    return found


def _route(op: Op, made: Recipe, flags: Flags, given: Positions) -> Route:
    needed = op.reached(given, positions(flags[2:]))
    if not needed or not given:
        return Route(needed, None, split=False)
    if made.split and given == made.given:
        return Route(needed, made.split.backward(needed), split=True)
    return Route(needed, op.derive("vjp", needed, given), split=False)


def _make(op: Op, flags: Flags, given: Positions | None) -> Recipe:
    wanted = positions(flags[2:])
    smooth = tuple(i for i, spec in enumerate(op.specs()) if spec.differentiable)
    outputs = tuple(range(len(op.specs())))
    fixed = _fixed(op, smooth, outputs, wanted)
    given = tuple(i for i in outputs if i not in fixed) if given is None else given
    split = op.halved(wanted, given) if wanted and given else None
    forward = split.forward if split else op
    made = Recipe(flags, wanted, given, split, forward, smooth, fixed, outputs)
    op.notes[flags] = made
    return made


def unprepared(op: Op, outputs: Sequence[torch.Tensor], flags: Flags) -> Recipe:
    """The forward pass of an Op that tells nothing of its outputs before it is called."""
    smooth = tuple(i for i, y in enumerate(outputs) if y.is_floating_point() or y.is_complex())
    everything = tuple(range(len(outputs)))
    fixed = tuple(i for i in everything if i not in smooth)
    return Recipe(flags, positions(flags[2:]), smooth, None, op, smooth, fixed, everything)


def _fixed(op: Op, smooth: Positions, outputs: Positions, primals: Positions) -> Positions:
    """Those of `outputs` that are not smooth, or depend on none of `primals`."""
    return tuple(i for i in outputs if i not in smooth or not op.reached([i], primals))


def positions(flags: Iterable[bool]) -> Positions:
    """Where the flags are set."""
    return tuple([i for i, flag in enumerate(flags) if flag])
