"""The making of plans: the points at which a derivative needs values, each once."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._core.gradient_rules import ComplexStep, FiniteDifference, Jvp, UserRule, Vjp
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.forms import Form, Term
from bridge._sources.numpy.moves import Block, Coordinates, Direction, Moves, make_moves
from bridge._sources.numpy.plans import (
    Callee,
    Plan,
    PointSet,
    Rows,
    Shifts,
    TermPlan,
    Weight,
)
from bridge._sources.numpy.point_table import Table, combine, distinct_points, places_of_moves


class Planner:
    """Makes the plan of a derivative of a black box."""

    def __init__(self, form: Form, box: BlackBox) -> None:
        self._form, self._box = form, box
        self._reuses_outputs = box.reuses_outputs and any(
            entry.kind == "output" for entry in form.inputs
        )
        self._coordinates = Coordinates()
        self._callees: dict[Any, Callee] = {}
        self._tables: dict[Any, list[Table]] = {}
        self._random_argnums: dict[Block, set[int]] = {}

    def plan(self) -> Plan:
        """Return the plan."""
        drafts = [
            [self._draft(group) for group in self._group_terms(result.terms)]
            for result in self._form.results
        ]
        located = {key: self._locate(key) for key in self._tables}
        return Plan(
            point_sets={key: point_set for key, (point_set, _) in located.items()},
            results=tuple(
                tuple(_term_plan(draft, located[draft.callee.key][1]) for draft in result)
                for result in drafts
            ),
            random_blocks=tuple(
                (block, tuple(sorted(argnums))) for block, argnums in self._random_argnums.items()
            ),
        )

    # Which directions, by which rules.

    def _directions(self, term: Term) -> list[Direction]:
        inputs = self._form.inputs
        directions = [self._box.direction(inputs[v].position, v) for v in term.tangents]
        if term.argnum is not None:
            directions.append(self._box.direction(term.argnum, None))
        return directions

    def _user_rule(self, term: Term) -> tuple[Direction | None, UserRule | None]:
        """Return the direction that a rule of the user takes, the open one first, and the rule."""
        for direction in reversed(self._directions(term)):
            rule = self._box.rule(direction.argnum)
            if isinstance(rule, UserRule):
                return direction, rule
        return None, None

    def _group_terms(self, terms: Sequence[Term]) -> list[tuple[Term, ...]]:
        """Return the terms, those together that one call of the user's rule gives the sum of."""
        groups: dict[Any, list[Term]] = {}
        for number, term in enumerate(terms):
            _, rule = self._user_rule(term)
            key: Any = number
            if isinstance(rule, Vjp) and term.cotangent is not None:
                key = id(rule), term.tangents, term.argnum
            elif isinstance(rule, Jvp) and _is_first_tangent(term):
                key = id(rule), term.outnum
            linear = [*map(self._linear_position, groups.get(key, []))]
            # A call has one cotangent for each output, or one tangent for each primal.
            key = number if self._linear_position(term) in linear else key
            groups.setdefault(key, []).append(term)
        return [tuple(group) for group in groups.values()]

    def _linear_position(self, term: Term) -> int:
        """Return the output that a cotangent is of, or the primal that a first tangent is of."""
        is_tangent = term.cotangent is None and term.tangents
        return self._form.inputs[term.tangents[0]].position if is_tangent else term.outnum

    def _draft(self, terms: tuple[Term, ...]) -> "_Draft":
        """Return a term, or a group of terms, with its moves, whose points have no numbers yet."""
        linear, user_rule = self._user_rule(terms[0])
        directions = [d for d in self._directions(terms[0]) if d != linear]
        rules = [self._box.rule_of_shifts(d.argnum) for d in directions]
        moves = self._moves(_with_one_complex_step(rules), directions)
        callee = self._callee(terms, linear, user_rule)
        table = self._tables.setdefault(callee.key, [])
        table.append(combine(moves))
        return _Draft(terms, callee, linear, tuple(moves), len(table) - 1)

    def _moves(self, rules: Sequence[Any], directions: Sequence[Direction]) -> list[Moves]:
        count = sum(isinstance(rule, FiniteDifference) for rule in rules)
        all_moves: list[Moves] = []
        for rule, direction in zip(rules, directions, strict=True):
            moves = make_moves(rule, direction, self._coordinates, count)
            if moves.block.kind == "random":
                self._random_argnums.setdefault(moves.block, set()).add(direction.argnum)
            all_moves.append(moves)
        return all_moves

    def _callee(
        self, terms: Sequence[Term], linear: Direction | None, rule: UserRule | None
    ) -> Callee:
        inputs: dict[int, int] = {}
        if isinstance(rule, Vjp):
            inputs = {t.outnum: t.cotangent for t in terms if t.cotangent is not None}
        elif isinstance(rule, Jvp) and _is_first_tangent(terms[0]):
            inputs = {self._linear_position(t): t.tangents[0] for t in terms}
        callee = Callee(rule, tuple(sorted(inputs.items())))
        if linear is not None and callee.is_matrix:
            others = self._callees.get(callee.key, callee).positions
            position = terms[0].outnum if isinstance(rule, Vjp) else linear.argnum
            callee = dataclasses.replace(callee, positions=tuple(sorted({*others, position})))
        self._callees[callee.key] = callee
        return callee

    # Which points.

    def _locate(self, key: Any) -> tuple[PointSet, list[np.ndarray]]:
        """Return the distinct points of a callee, and the point of each row of its terms."""
        coordinates, shifts, numbers = distinct_points(self._tables[key], self._coordinates.periods)
        count, starts_at_origin = len(shifts), bool((coordinates[:1] < 0).all(1).any())
        is_known = (
            self._reuses_outputs and starts_at_origin and self._callees[key].user_rule is None
        )
        if is_known:  # the origin, which comes first, becomes the last point
            coordinates, shifts = coordinates[1:], shifts[1:]
            numbers = [(n - 1) % count for n in numbers]
        moves = self._shifts(coordinates, shifts)
        point_set = PointSet(
            callee=self._callees[key],
            count=len(coordinates),
            shifts=tuple(moves),
            shifts_by_argnum=self._by_argnum(moves),
            has_known_origin=is_known,
            is_origin=starts_at_origin and count == 1,
        )
        return point_set, numbers

    def _shifts(self, coordinates: np.ndarray, shifts: np.ndarray) -> list[Shifts]:
        units, complex_steps = self._coordinates.units, self._coordinates.complex_steps
        by_block: list[Shifts] = []
        for block in self._coordinates.blocks.values():
            inside = (coordinates >= block.start) & (coordinates < block.start + block.size)
            points, columns = np.nonzero(inside)
            at, shift = coordinates[points, columns], shifts[points, columns]
            far = np.real(shift) * units[at]
            if np.imag(shift).any():
                far = far + 1j * complex_steps[at] * np.imag(shift)
            by_block += self._parts(Shifts(block, points, at - block.start, far))
        return by_block

    def _parts(self, shifts: Shifts) -> list[Shifts]:
        """Return the shifts of real parts and those of imaginary parts, if there are any."""
        if shifts.block.kind != "element":
            return [shifts] if len(shifts.shifts) else []
        size = math.prod(self._box.primals[shifts.block.position].shape)
        parts: list[Shifts] = []
        for unit, start in ((1, 0), (1j, size)):
            own = (shifts.elements >= start) & (shifts.elements < start + size)
            if own.any():
                points, elements = shifts.point_indices[own], shifts.elements[own] - start
                parts.append(Shifts(shifts.block, points, elements, unit * shifts.shifts[own]))
        return parts

    def _by_argnum(self, shifts: Sequence[Shifts]) -> tuple[tuple[Shifts, ...], ...]:
        """Return the shifts of each primal."""

        def moves(block: Block, argnum: int) -> bool:
            if block.kind == "random":
                return argnum in self._random_argnums[block]
            position = block.position
            return argnum == (
                self._form.inputs[position].position if block.kind == "input" else position
            )

        return tuple(
            tuple(s for s in shifts if moves(s.block, argnum))
            for argnum in range(len(self._box.primals))
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Draft:
    """A term whose points have no numbers yet; `table` is its place among those of its callee."""

    terms: tuple[Term, ...]
    callee: Callee
    user_direction: Direction | None
    moves: tuple[Moves, ...]
    table: int


def _is_first_tangent(term: Term) -> bool:
    return term.cotangent is None and len(term.tangents) == 1


def _with_one_complex_step(rules: Sequence[Any]) -> list[Any]:
    """Return the rules with differences for all complex steps but the first."""
    first = next((n for n, rule in enumerate(rules) if isinstance(rule, ComplexStep)), None)
    return [
        rule.then if isinstance(rule, ComplexStep) and n != first else rule
        for n, rule in enumerate(rules)
    ]


def _term_plan(draft: _Draft, tables: Sequence[np.ndarray]) -> TermPlan:
    """Return the plan of a term whose rows have these points."""
    points, moves = tables[draft.table], draft.moves
    places = places_of_moves(moves)
    coefficients = np.ones(len(points))
    for m, p in zip(moves, places, strict=True):
        coefficients = coefficients * m.coefficients[p]
    has_open = draft.terms[0].argnum is not None and (
        draft.user_direction is None or draft.user_direction.input is not None
    )
    elements = [m.elements[p] for m, p in zip(moves, places, strict=True)]
    order = np.lexsort(elements) if elements else np.arange(1)  # by the last direction first
    sorted_elements = np.stack([e[order] for e in elements]) if elements else np.zeros((1, 1), int)
    starts = _starts_of_runs(sorted_elements)
    weights = [
        Weight(m.block, m.input, e[starts]) for m, e in zip(moves, sorted_elements, strict=False)
    ]
    target_starts = _starts_of_runs(sorted_elements[-1:, starts])
    rows = Rows(
        point_indices=points[order],
        coefficients=coefficients[order],
        group_starts=starts,
        weights=tuple(weights),
        open=weights[-1] if has_open else None,
        target_starts=target_starts,
        targets=sorted_elements[-1, starts][target_starts],
    )
    return TermPlan(draft.terms, draft.callee, draft.user_direction, rows)


def _starts_of_runs(columns: np.ndarray) -> np.ndarray:
    """Return where a column differs from that before it."""
    changes = (columns[:, 1:] != columns[:, :-1]).any(0)
    return np.flatnonzero(np.append(np.full(min(1, columns.shape[1]), fill_value=True), changes))
