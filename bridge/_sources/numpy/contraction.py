"""The terms of a derivative, from values at its points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.elements import from_real_elements, real_size, to_real_elements
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
        weights = np.add.reduceat(self._weights(rows), rows.starts, -1)
        total = (weights[..., None, :] @ values[..., rows.targets, :])[..., 0, :]
        return np.real(total) if np.iscomplexobj(weights) else total

    def _weights(self, rows: Rows) -> np.ndarray:
        weights = rows.coefficients
        for weight in rows.weights:
            factor = self._shifter.weight(weight)
            weights = weights if factor is None else weights * factor
        return weights

    def _tangents(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return, at each point, the output or its tangent by the user's rule."""
        outnum, linear = plan.terms[0].outnum, plan.user_direction
        if linear is None or plan.callee.inputs:
            return values[outnum]
        moved = values[outnum, linear.argnum] @ self._real(linear.input)[..., None]
        return from_real_elements(moved[..., 0], self._box.outputs[outnum])

    def _gradients(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return, at each point, the gradient by the user's rule, in real elements."""
        term, argnum = plan.terms[0], plan.user_direction.argnum if plan.user_direction else 0
        if plan.callee.inputs:
            return to_real_elements(values[argnum])
        cotangent = self._real(term.cotangent)[..., None, :]
        return (cotangent @ values[term.outnum, argnum])[..., 0, :]

    def _real(self, input: int | None) -> np.ndarray:
        """Return the real elements of an input, with an axis of points."""
        return to_real_elements(self._inputs[input or 0])[..., None, :]

    def _open_gradient(self, plan: TermPlan, values: Values) -> np.ndarray:
        """Return the gradient by the elements of the direction that a rule of shifts has."""
        rows, spec = plan.rows, self._box.primals[plan.terms[0].argnum or 0]
        weights = self._weights(rows)
        products = self._products(plan, values, imaginary=np.iscomplexobj(weights))
        sums = np.add.reduceat(
            np.real(products[..., rows.point_indices] * weights), rows.starts, -1
        )
        if rows.open and rows.open.block.kind == "random":
            directions = self._shifter.directions(plan.terms[0].argnum or 0)
            return (sums[..., None, :] @ directions[..., rows.targets, :])[..., 0, :]
        gradient = np.zeros((*sums.shape[:-1], real_size(spec)))
        gradient[..., rows.targets] = sums
        return from_real_elements(gradient, spec)

    def _products(self, plan: TermPlan, values: Values, *, imaginary: bool) -> np.ndarray:
        """Return, at each point, the cotangent times the output, or times its tangent."""
        term, linear = plan.terms[0], plan.user_direction
        if linear is not None:
            return (self._gradients(plan, values) * self._real(linear.input)).sum(-1)
        y, cotangent = values[term.outnum], self._inputs[term.cotangent or 0]
        if not imaginary:  # else the imaginary part of y is a derivative, of a real output
            y, cotangent = to_real_elements(y), to_real_elements(cotangent)
        return (y @ cotangent[..., None])[..., 0]
