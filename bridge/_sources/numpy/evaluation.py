"""The results of a form: values of the function at its points, weighed and summed.

Arrays in here have an axis for each label, NOTE [labels of batches], then one for points if they
are values, and one for elements; weights have one for rows in place of points.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge._core.gradient_rules import Jvp, Vjp
from bridge._core.op import Arrays
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.contraction import Contraction, Values
from bridge._sources.numpy.elements import is_complex, real_size, to_real_elements, unit_vectors
from bridge._sources.numpy.forms import Form, Result
from bridge._sources.numpy.labels import with_labels, without_labels
from bridge._sources.numpy.noise import tag_of
from bridge._sources.numpy.plans import Plan, PointSet
from bridge._sources.numpy.point_batch import PointBatch
from bridge._sources.numpy.shifting import Shifter


class Evaluation:
    """One evaluation of a form.

    Args:
        form: The form.
        plan: Its points.
        box: The function.
        xs: The inputs.
        tag: The number of the derivative: NOTE [noise].
    """

    def __init__(
        self, form: Form, plan: Plan, box: BlackBox, xs: Sequence[np.ndarray], tag: int = 0
    ) -> None:
        self._form, self._box, self._tag = form, box, tag
        self._plan = plan
        self._inputs = [
            box.to_compute_dtype(with_labels(x, entry.axes, len(form.sizes)))
            for x, entry in zip(xs, form.inputs, strict=True)
        ]
        self._outputs = {
            entry.position: x[..., None, :]
            for entry, x in zip(form.inputs, self._inputs, strict=True)
            if entry.kind == "output"
        }
        primals = self._inputs[: len(box.primals)]
        directions = box.random_directions(primals, plan.random_blocks, tag)
        self._shifter = Shifter(form, box, self._inputs, directions)

    def evaluate_points(self) -> dict[Any, Values]:
        """Return the values of each callee at its points."""
        point_sets = self._plan.point_sets
        if self._box.max_points is not None and self._form.is_derivative:
            self._box.check_point_count(sum(map(self._count_points, point_sets.values())))
        return {key: self._evaluate(points) for key, points in point_sets.items()}

    def _count_points(self, points: PointSet) -> int:
        """Return the number of points, in all examples of batches."""
        inputs = [self._inputs[i] for i in self._shifter.inputs_that_move(points)]
        sizes = np.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        return math.prod(sizes) * points.count

    def contract(self, values: dict[Any, Values]) -> Arrays:
        """Return the results that follow from these values."""
        contraction = Contraction(self._box, self._inputs, self._shifter)
        return tuple(
            self._sum(result, [contraction.term(term, values[term.callee.key]) for term in terms])
            for result, terms in zip(self._form.results, self._plan.results, strict=True)
        )

    def _sum(self, result: Result, terms: Sequence[np.ndarray]) -> np.ndarray:
        spec = self._box.spec_of(result)
        shape = (*(1 for _ in self._form.sizes), math.prod(spec.shape))
        total = sum(terms[1:], terms[0]) if terms else np.zeros(shape)
        placed = without_labels(total, result.axes, self._form.sizes, spec.shape)
        return np.array(placed, spec.dtype, order="C")

    # Values at points.

    def _evaluate(self, points: PointSet) -> Values:
        """Return the values of a callee at its points, by position."""
        primals = self._shifter.primals(points)
        if points.callee.user_rule is None:
            only_origin = points.has_known_origin and not points.count
            values = {} if only_origin else self._call(points, primals)
            if points.has_known_origin:
                values = {i: _append(values.get(i), y) for i, y in self._outputs.items()}
            return values
        outputs = self._outputs_at(points, primals)
        if points.callee.is_matrix:
            return self._matrices(points, primals, outputs)
        linear = {position: self._inputs[i][..., None, :] for position, i in points.callee.inputs}
        return self._call(points, primals, points.callee.user_rule, linear, outputs)

    def _call(
        self,
        points: PointSet,
        primals: Sequence[np.ndarray],
        rule: Any = None,
        linear: Mapping[int, np.ndarray] | None = None,
        outputs: Values | None = None,
    ) -> Values:
        describe = functools.partial(self._shifter.describe, points)
        # The outputs for a rule of the user at the primals have the noise of those returned.
        is_before_rule = rule is not points.callee.user_rule
        tag = tag_of(()) if is_before_rule and points.is_origin else self._tag
        batch = PointBatch(
            user_rule=rule,
            points_per_example=points.count,
            shifted_primals=primals,
            # What the function does to its arguments must not reach the rule after it.
            moved_argnums=frozenset() if is_before_rule else points.moved_argnums,
            linear=linear or {},
            outputs=outputs,
            tag=tag,
            describe=describe,
        )
        values = self._box.evaluate(batch)
        return {i: batch.unstack(y) for i, y in values.items()}

    def _outputs_at(self, points: PointSet, primals: Sequence[np.ndarray]) -> Values | None:
        """Return the outputs of the function at the points of a `Vjp`, which takes them."""
        if not isinstance(points.callee.user_rule, Vjp):
            return None
        if points.is_origin and self._outputs:
            return self._outputs
        return self._call(points, primals)

    def _as_matrix(self, jacobian: np.ndarray, outnum: int, argnum: int) -> np.ndarray:
        """Return a Jacobian of the user with an axis of results and one of elements."""
        size = real_size(self._box.primals[argnum])
        matrix = jacobian.reshape((*jacobian.shape[:-1], jacobian.shape[-1] // max(1, size), size))
        if not is_complex(self._box.outputs[outnum]):
            return matrix
        return np.concatenate([np.real(matrix), np.imag(matrix)], -2)

    def _matrices(
        self, points: PointSet, primals: Sequence[np.ndarray], outputs: Values | None
    ) -> Values:
        """Return Jacobians by output and primal, in the real elements of both."""
        rule, box = points.callee.user_rule, self._box
        if not isinstance(rule, (Vjp, Jvp)):
            values = self._call(points, primals, rule)
            return {(o, i): self._as_matrix(y, o, i) for (o, i), y in values.items()}
        specs, value_specs = box.outputs, box.primals
        if isinstance(rule, Jvp):
            specs, value_specs = value_specs, specs
        units = unit_vectors({i: specs[i] for i in points.callee.positions}, len(self._form.sizes))
        # The unit vectors are one more batch, in front of all others.
        values = self._call(
            points,
            [x[None] for x in primals],
            rule,
            {i: vectors for i, (_, vectors) in units.items()},
            outputs and {i: y[None] for i, y in outputs.items()},
        )
        matrices: Values = {}
        for i, (rows, _) in units.items():
            for j, y in values.items():
                block = to_real_elements(y[rows]) if is_complex(value_specs[j]) else y[rows]
                if isinstance(rule, Vjp):
                    matrices[i, j] = np.moveaxis(block, 0, -2)
                else:
                    matrices[j, i] = np.moveaxis(block, 0, -1)
        return matrices


def _append(values: np.ndarray | None, last: np.ndarray) -> np.ndarray:
    """Return the values at one more point."""
    if values is None:
        return last
    sizes = np.broadcast_shapes(values.shape[:-2], last.shape[:-2])
    return np.concatenate([np.broadcast_to(x, (*sizes, *x.shape[-2:])) for x in (values, last)], -2)
