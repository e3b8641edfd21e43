"""How a rule moves a point in one direction, and what the values there weigh.

NOTE [coordinates]
Whatever a point is moved along has a number, its coordinate: an element of a primal, an input that
is a direction, one of the random directions of SPSA. A point is a few coordinates with shifts.
Shifts are in units of their coordinate, so that steps of 1e-30 and angles are told apart alike: the
step of a difference, for angles the inverse of the largest frequency. The imaginary part of a shift
counts complex steps. Shifts along one coordinate add up, and points that coincide are one.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from bridge._core.errors import ArgumentError
from bridge._core.gradient_rules import SPSA, ComplexStep, FiniteDifference, ParameterShift
from bridge._core.spec import ArraySpec
from bridge._sources.numpy.elements import is_complex, real_size
from bridge._sources.numpy.stencils import difference_stencil, period, shift_stencil

_LEAST_STEP = 4  # in units of the precision
ShiftRule = ParameterShift | FiniteDifference | ComplexStep | SPSA


@dataclasses.dataclass(frozen=True)
class Block:
    """A row of coordinates of one kind: NOTE [coordinates].

    Attributes:
        kind: What is moved: the elements of a primal, along an input, along random directions.
        position: The primal, or the input.
        start: The first coordinate.
        size: How many coordinates there are.
        is_relative: True if steps are multiples of `max(1, |x|)`.
        rule: The rule of random directions.
    """

    kind: Literal["element", "input", "random"]
    position: int
    start: int
    size: int
    is_relative: bool = False
    rule: SPSA | None = None


class Coordinates:
    """All coordinates of the points of a derivative, with their units and periods."""

    def __init__(self) -> None:
        self.blocks: dict[Any, Block] = {}
        self._units: list[np.ndarray] = []
        self._periods: list[np.ndarray] = []
        self._complex_steps: list[np.ndarray] = []
        self._count = 0

    def block(
        self,
        key: Any,
        block: Block,
        *,
        units: np.ndarray | float,
        periods: np.ndarray | float = 0.0,
        complex_step: float = 0.0,
    ) -> Block:
        """Return the block with this key; the first time, `block` with coordinates of its own."""
        if key not in self.blocks:
            self.blocks[key] = dataclasses.replace(block, start=self._count)
            self._count += block.size
            self._units.append(np.broadcast_to(units, block.size))
            self._periods.append(np.broadcast_to(periods, block.size))
            self._complex_steps.append(np.full(block.size, complex_step))
        return self.blocks[key]

    @property
    def units(self) -> np.ndarray:
        """The unit of the shifts along each coordinate."""
        return np.concatenate(self._units) if self._units else np.ones(0)

    @property
    def complex_steps(self) -> np.ndarray:
        """The complex step along each coordinate."""
        return np.concatenate(self._complex_steps) if self._complex_steps else np.ones(0)

    @property
    def periods(self) -> np.ndarray:
        """The period along each coordinate, in units; 0 where there is none."""
        return np.concatenate(self._periods) if self._periods else np.ones(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Moves:
    """Moves in one direction; the derivative is the weighted sum of the values there.

    Attributes:
        block: The coordinates.
        coordinates: The coordinate of each move.
        shifts: Its shift, in units.
        coefficients: The weight of the value.
        input: The input whose elements weigh the values; None in an open direction.
    """

    block: Block
    coordinates: np.ndarray
    shifts: np.ndarray
    coefficients: np.ndarray
    input: int | None

    @property
    def elements(self) -> np.ndarray:
        """The element, or the random direction, of each move."""
        return self.coordinates - self.block.start


@dataclasses.dataclass(frozen=True)
class Direction:
    """A direction of a term.

    Attributes:
        argnum: The primal.
        input: The input that is the direction; None if it is left open.
        spec: The spec of the primal, in the dtype that is computed with.
        name: The primal in errors.
        epsilon: The relative precision of values.
    """

    argnum: int
    input: int | None
    spec: ArraySpec
    name: str
    epsilon: float

    @property
    def size(self) -> int:
        """The number of real elements: a complex one has two."""
        return real_size(self.spec)


def make_moves(
    rule: ShiftRule, direction: Direction, coordinates: Coordinates, difference_count: int
) -> Moves:
    """Return the moves in one direction of a term that takes so many differences."""
    if isinstance(rule, ParameterShift):
        return _shifts(rule, direction, coordinates)
    if isinstance(rule, ComplexStep):
        return _complex_step(rule, direction, coordinates)
    if isinstance(rule, SPSA):
        return _random_differences(rule, direction, coordinates)
    return _differences(rule, direction, coordinates, difference_count)


def _shifts(rule: ParameterShift, direction: Direction, coordinates: Coordinates) -> Moves:
    rows = rule.rows()
    if is_complex(direction.spec):
        raise ArgumentError(
            f"{direction.name} is {direction.spec}, and ParameterShift is for angles."
        )
    if len(rows) not in (1, direction.size):
        raise ArgumentError(
            f"{direction.name} has {direction.size} elements, and frequencies= has "
            f"{len(rows)} rows."
        )
    rows = rows * direction.size if len(rows) == 1 else rows
    units = np.array([1 / max(row) for row in rows])
    periods = np.array([period(row) or 0.0 for row in rows])
    block = coordinates.block(
        ("element", direction.argnum, rule),
        Block("element", direction.argnum, 0, direction.size),
        units=units,
        periods=periods / units if rows else 0.0,
    )
    stencils = [shift_stencil(row, rule.shifts and tuple(rule.shifts)) for row in rows]
    counts = [len(coefficients) for coefficients, _ in stencils]
    elements = np.repeat(np.arange(direction.size), counts)
    shifts = _joined([s for _, s in stencils]) / units[elements]
    coefficients = _joined([c for c, _ in stencils])
    return Moves(block, block.start + elements, shifts, coefficients, direction.input)


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if rows else np.ones(0)


def _differences(
    rule: FiniteDifference, direction: Direction, coordinates: Coordinates, count: int
) -> Moves:
    weights, nodes = difference_stencil(rule.accuracy, rule.strategy)
    step = rule.h or direction.epsilon ** (1 / (count + rule.accuracy))
    _check_step(step, direction)
    return _stencil_moves(direction, coordinates, weights / step, nodes, step, relative=True)


def _check_step(step: float, direction: Direction) -> None:
    """Raise if values at this distance cannot be told apart."""
    if step < _LEAST_STEP * direction.epsilon:
        raise ArgumentError(
            f"{direction.name} is moved by a step of {step:g}, but the function computes with a "
            f"relative precision of {direction.epsilon:.2g}. Pass a larger `h`, or "
            'dtype="float64" where the function is wrapped.'
        )


def _complex_step(rule: ComplexStep, direction: Direction, coordinates: Coordinates) -> Moves:
    if is_complex(direction.spec):
        raise ArgumentError(
            f"{direction.name} is {direction.spec}, and ComplexStep is for real arguments."
        )
    # Im y / h is the real part of -1j y / h.
    weights, nodes = np.array([-1j / rule.h]), np.array([1j])
    return _stencil_moves(
        direction, coordinates, weights, nodes, 1.0, relative=False, complex_step=rule.h
    )


def _random_differences(rule: SPSA, direction: Direction, coordinates: Coordinates) -> Moves:
    _check_step(rule.h, direction)
    weights, nodes = np.array([0.5, -0.5]) / rule.h, np.array([1.0, -1.0])
    if direction.input is not None:
        return _stencil_moves(direction, coordinates, weights, nodes, rule.h, relative=False)
    # All arguments with this rule are moved at once.
    block = coordinates.block(
        ("random", rule), Block("random", 0, 0, rule.num_directions, rule=rule), units=rule.h
    )
    return _repeat_stencil(block, weights / rule.num_directions, nodes, None)


def _stencil_moves(
    direction: Direction,
    coordinates: Coordinates,
    weights: np.ndarray,
    nodes: np.ndarray,
    step: float,
    *,
    relative: bool,
    complex_step: float = 0.0,
) -> Moves:
    """Return the moves of one stencil along a direction, or in each element of an open one."""
    kind, position, size = "element", direction.argnum, direction.size
    if direction.input is not None:
        kind, position, size = "input", direction.input, 1
    block = coordinates.block(
        (kind, position, step, relative, complex_step),
        Block(kind, position, 0, size, relative),
        units=step,
        complex_step=complex_step,
    )
    return _repeat_stencil(block, weights, nodes, direction.input)


def _repeat_stencil(
    block: Block, weights: np.ndarray, nodes: np.ndarray, input: int | None
) -> Moves:
    elements = np.repeat(np.arange(block.size), len(nodes))
    shifts, coefficients = np.tile(nodes, block.size), np.tile(weights, block.size)
    return Moves(block, block.start + elements, shifts, coefficients, input)
