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

from bridge._op import Op, Positions, Split


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A forward pass.

    Attributes:
        wanted: Positions of the primals that want gradients.
        given: Positions of the outputs that are expected to have cotangents.
        split: Both halves of the derivative; `None` where the backward pass recomputes.
        forward: What is evaluated.
        smooth: Positions of the outputs of a differentiable dtype.
        flows: Those of them that a gradient can reach; the others are constants.
    """

    wanted: Positions
    given: Positions
    split: Split | None
    forward: Op
    smooth: Positions
    flows: Positions


def recipe(op: Op, wanted: Positions) -> Recipe:
    """The forward pass of `op`, made once and then kept."""
    found = op.notes.get(wanted)
    return found if found is not None else _make(op, wanted, None)


def revise(op: Op, wanted: Positions, given: Positions) -> None:
    """Expect cotangents for the outputs `given` from now on: NOTE [outputs nobody uses]."""
    _make(op, wanted, given)


def _make(op: Op, wanted: Positions, given: Positions | None) -> Recipe:
    smooth = tuple(i for i, spec in enumerate(op.specs()) if spec.differentiable)
    flows = tuple(i for i in smooth if reached(op, [i], wanted))
    given = flows if given is None else given
    split = op.derive("split", wanted, given) if op.split and wanted and given else None
    made = Recipe(wanted, given, split, split.forward if split else op, smooth, flows)
    op.notes[wanted] = made
    return made


def unprepared(op: Op, outputs: Sequence[torch.Tensor], wanted: Positions) -> Recipe:
    """The forward pass of an Op that tells nothing of its outputs before it is called."""
    smooth = tuple(i for i, y in enumerate(outputs) if y.is_floating_point() or y.is_complex())
    return Recipe(wanted, smooth, None, op, smooth, smooth)


def reached(op: Op, outputs: Iterable[int], primals: Positions) -> Positions:
    """Those of `primals` that one of `outputs` depends on."""
    if op.reach is None:
        return primals
    key = ("reached", tuple(outputs), primals)
    if key not in op.notes:  # every backward pass asks, and there may be hundreds of each
        together = frozenset[int]().union(*(op.reach()[y] for y in key[1]))
        op.notes[key] = tuple(i for i in primals if i in together)
    return op.notes[key]
