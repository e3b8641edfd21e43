"""What follows from a form and its rules alone: the points of a derivative, and their weights."""

import dataclasses
import functools
from typing import Any

import numpy as np

from bridge._core.gradient_rules import UserRule
from bridge._core.op import Positions
from bridge._sources.numpy.forms import Term
from bridge._sources.numpy.moves import Block, Direction


@dataclasses.dataclass(frozen=True, eq=False)
class Callee:
    """What is evaluated at points: the function, or a derivative that the user gave.

    Attributes:
        user_rule: The user's rule; None for the function itself.
        inputs: For `Vjp` the inputs that are cotangents, by output; for `Jvp` those that are
            tangents, by primal. Without any, the whole Jacobian is asked for.
        positions: For the whole Jacobian, the outputs that `Vjp` gets unit cotangents for, or the
            primals that `Jvp` gets unit tangents for.
    """

    user_rule: UserRule | None = None
    inputs: tuple[tuple[int, int], ...] = ()
    positions: tuple[int, ...] = ()

    @property
    def key(self) -> Any:
        """A key by which callees are equal; rules need not be hashable."""
        return id(self.user_rule), self.inputs

    @property
    def is_matrix(self) -> bool:
        """True if its values are Jacobians."""
        return self.user_rule is not None and not self.inputs


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """What a direction multiplies the values by, besides coefficients.

    Attributes:
        block: What is moved.
        input: The input whose elements are the weights; None for an open direction.
        elements: The element of each group of rows; for random directions, the direction.
    """

    block: Block
    input: int | None
    elements: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The products of moves in all directions of a term, one row for each.

    Rows that differ by shifts alone are a group: the values of a group are added up before anything
    else, because these are differences of large numbers.

    Attributes:
        point_indices: The point of each row.
        coefficients: Its coefficient.
        group_starts: Where the rows of each group begin.
        weights: What else the sums of groups are multiplied by, for each direction.
        open: The weight of the open direction, by whose elements groups are sorted; None where
            there is no open direction, or the user's rule has it.
        target_starts: Where the groups of each element of the open direction begin.
        targets: These elements.
    """

    point_indices: np.ndarray
    coefficients: np.ndarray
    group_starts: np.ndarray
    weights: tuple[Weight, ...]
    open: Weight | None
    target_starts: np.ndarray
    targets: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TermPlan:
    """How a term is computed from values.

    Attributes:
        terms: The term; where a user's rule takes all cotangents or tangents at once, all of them.
        callee: What is evaluated.
        user_direction: The direction that the user's rule is for.
        rows: What the values weigh.
    """

    terms: tuple[Term, ...]
    callee: Callee
    user_direction: Direction | None
    rows: Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Shifts:
    """The shifts of some points along the coordinates of a block.

    Attributes:
        block: The coordinates.
        point_indices: The points that are moved.
        elements: The element of the block along which each is moved.
        shifts: How far.
    """

    block: Block
    point_indices: np.ndarray
    elements: np.ndarray
    shifts: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PointSet:
    """The distinct points for one callee.

    Attributes:
        callee: What is evaluated there.
        count: How many points there are, for one example of each batch.
        shifts: How they differ from the primals.
        shifts_by_argnum: The shifts of each primal.
        has_known_origin: True if one more point, the last, is at the primals, where the outputs are
            known.
        is_origin: True if the only point is at the primals.
    """

    callee: Callee
    count: int
    shifts: tuple[Shifts, ...]
    shifts_by_argnum: tuple[tuple[Shifts, ...], ...]
    has_known_origin: bool
    is_origin: bool

    @functools.cached_property
    def moved_argnums(self) -> frozenset[int]:
        """The primals that vary among the points."""
        return frozenset(i for i, shifts in enumerate(self.shifts_by_argnum) if shifts)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What follows from a form and its rules alone, made once.

    Attributes:
        point_sets: The points, by the key of their callee.
        results: For each result of the form, the plans of its terms.
        random_blocks: The random directions, with the primals that are moved along them.
    """

    point_sets: dict[Any, PointSet]
    results: tuple[tuple[TermPlan, ...], ...]
    random_blocks: tuple[tuple[Block, Positions], ...]
