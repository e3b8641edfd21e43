"""The terms of a derivative, from values at its points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._core.spec import ArraySpec
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.elements import (
    from_real_elements,
    is_complex,
    real_size,
    to_real_elements,
)
from bridge._sources.numpy.plans import Rows, TermPlan
from bridge._sources.numpy.shifting import Shifter

Values = dict[Any, np.ndarray]


class Contraction:
    """Computes terms from values, which have an axis of points and one of elements.

    Args:
        box: The function.
        inputs: The inputs of the derivative.
        shifter: What moved the primals to the points.
    """

    def __init__(self, box: BlackBox, inputs: Sequence[np.ndarray], shifter: Shifter) -> None:
        self._box, self._inputs, self._shifter = box, inputs, shifter

    def term(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return a term, with an axis of elements."""
        if plan.terms[0].argnum is None:
            return self._sum_weighted(plan.rows, self._tangents(plan, values))
        if plan.rows.open is None:
            gradients = self._sum_weighted(plan.rows, self._gradients(plan, values))
            return from_real_elements(gradients, self._box.primals[plan.terms[0].argnum])
        return self._open_gradient(plan, values)

    def _sum_weighted(self, rows: Rows, values: np.ndarray) -> np.ndarray:
        """Return the weighted sum over points."""
        if not rows.weights:  # a value, which may be an integer or not a number
            return values[..., rows.point_indices[0], :]
        sums, weights = self._sum_groups(rows, values), self._weights(rows)
        return (weights[..., None, :] @ sums)[..., 0, :]

    def _sum_groups(self, rows: Rows, values: np.ndarray) -> np.ndarray:
        """Return the weighted sum of the values of each group of rows, in double precision."""
        weighted = values[..., rows.point_indices, :] * rows.coefficients[:, None]
        sums = np.add.reduceat(weighted, rows.group_starts, -2)
        # The derivative by a complex step is real.
        return np.real(sums) if np.iscomplexobj(rows.coefficients) else sums

    def _weights(self, rows: Rows) -> np.ndarray:
        weights = np.ones(len(rows.group_starts))
        for weight in rows.weights:
            factor = self._shifter.weight(weight)
            weights = weights if factor is None else weights * factor
        return weights

    def _tangents(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return, at each point, the output or its tangent by the user's rule."""
        outnum, user = plan.terms[0].outnum, plan.user_direction
        spec = self._box.outputs[outnum]
        if user is None or plan.callee.inputs:
            return self._real_if(values[outnum], spec, plan.rows)
        moved = values[outnum, user.argnum] @ self._real(user.input)[..., None]
        return from_real_elements(moved[..., 0], spec)

    @staticmethod
    def _real_if(values: np.ndarray, spec: ArraySpec, rows: Rows) -> np.ndarray:
        """Return the real parts where other arguments of a call were moved by complex steps."""
        is_step = np.iscomplexobj(rows.coefficients)
        return values if is_step or is_complex(spec) else np.real(values)

    def _gradients(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return, at each point, the gradient by the user's rule, in real elements."""
        term, argnum = plan.terms[0], plan.user_direction.argnum if plan.user_direction else 0
        spec = self._box.primals[argnum]
        if plan.callee.inputs:
            gradients = self._real_if(values[argnum], spec, plan.rows)
            return to_real_elements(gradients) if is_complex(spec) else gradients
        cotangent = self._real(term.cotangent)[..., None, :]
        return (cotangent @ values[term.outnum, argnum])[..., 0, :]

    def _real(self, input: int | None) -> np.ndarray:
        """Return the real elements of an input, with an axis of points."""
        return to_real_elements(self._inputs[input or 0])[..., None, :]

    def _open_gradient(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return the gradient by the elements of the direction that a rule of shifts has."""
        rows, argnum = plan.rows, plan.terms[0].argnum or 0
        products = self._products(plan, values) * self._weights(rows)
        sums = np.add.reduceat(products, rows.target_starts, -1)
        if rows.open and rows.open.block.kind == "random":
            directions = self._shifter.directions(rows.open.block, argnum)
            return (sums[..., None, :] @ directions[..., rows.targets, :])[..., 0, :]
        gradient = np.zeros((*sums.shape[:-1], real_size(self._box.primals[argnum])))
        gradient[..., rows.targets] = sums
        return from_real_elements(gradient, self._box.primals[argnum])

    def _products(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return, for each group, the cotangent times the output, or times its tangent."""
        term, user = plan.terms[0], plan.user_direction
        if user is not None:
            sums = self._sum_groups(plan.rows, self._gradients(plan, values))
            return (sums * self._real(user.input)).sum(-1)
        spec = self._box.outputs[term.outnum]
        sums = self._sum_groups(plan.rows, self._real_if(values[term.outnum], spec, plan.rows))
        if is_complex(spec):
            sums = to_real_elements(sums)
        return (sums @ to_real_elements(self._inputs[term.cotangent or 0])[..., None])[..., 0]
