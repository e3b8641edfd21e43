"""The primals at the points of a derivative, and how far these are from each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge._core.errors import ArgumentError
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.elements import to_real_elements
from bridge._sources.numpy.forms import Form
from bridge._sources.numpy.moves import Block
from bridge._sources.numpy.plans import PointSet, Shifts, Weight
from bridge._sources.numpy.precision import machine_epsilon


class Shifter:
    """Moves the primals of one evaluation.

    Args:
        form: The form.
        box: The function.
        inputs: The inputs, with axes of labels and of elements.
        directions: The random directions of each block, by primal, with an axis for them before
            that of elements.
    """

    def __init__(
        self,
        form: Form,
        box: BlackBox,
        inputs: Sequence[np.ndarray],
        directions: Mapping[Block, Mapping[int, np.ndarray]],
    ) -> None:
        self._form, self._box = form, box
        self._inputs, self._directions = inputs, directions
        self._scales: dict[int, np.ndarray] = {}
        self._norms: dict[Block, np.ndarray] = {}

    def primals(self, points: PointSet) -> list[np.ndarray]:
        """Return the primals at these points; an axis of size 1 where they do not vary."""
        return [
            self._moved(i, points.count, shifts) for i, shifts in enumerate(points.shifts_by_argnum)
        ]

    def inputs_that_move(self, points: PointSet) -> list[int]:
        """Return the inputs whose batches the points have: primals, directions, linear inputs."""
        along = [s.block.position for s in points.shifts if s.block.kind == "input"]
        linear = [i for _, i in points.callee.inputs]
        return [*range(len(self._box.primals)), *along, *linear]

    def _argnum(self, block: Block) -> int:
        """Return the primal that moves along an element or an input are those of."""
        position = block.position
        return self._form.inputs[position].position if block.kind == "input" else position

    def _moved(self, argnum: int, count: int, shifts: Sequence[Shifts]) -> np.ndarray:
        x = self._inputs[argnum][..., None, :]
        if not shifts:
            return x
        changes = [self._change(argnum, s) for s in shifts]
        shapes = [x.shape[:-2], *(sizes for sizes, _, _ in changes)]
        sizes = np.broadcast_shapes(*shapes) if any(shapes) else ()
        is_step = not np.iscomplexobj(x) and any(np.iscomplexobj(s.shifts) for s in shifts)
        # Steps of 1e-30 are no numbers of single precision.
        dtype = np.dtype(np.complex128) if is_step else x.dtype
        moved = np.empty((*sizes, count, x.shape[-1]), dtype)
        moved[...] = x
        for _, index, change in changes:
            moved[index] += change.astype(dtype)
        return moved

    def _change(self, argnum: int, shifts: Shifts) -> tuple[Any, Any, np.ndarray]:
        """Return the sizes of labels of a change, where it is added, and the change."""
        if not shifts.block.is_relative and self._inputs[argnum].dtype != np.float64:
            self._check_step(argnum, shifts.shifts)
        if shifts.block.kind != "element":
            change = shifts.shifts[:, None] * self._vectors(argnum, shifts)
            return change.shape[:-2], (..., shifts.point_indices, slice(None)), change
        change = shifts.shifts
        if shifts.block.is_relative:
            change = change * self.scale(argnum)[..., shifts.elements]
        return change.shape[:-1], (..., shifts.point_indices, shifts.elements), change

    def _check_step(self, argnum: int, shifts: np.ndarray) -> None:
        """Raise if elements are so large that such shifts would hardly change them."""
        x = self._inputs[argnum]
        spacing = 4 * machine_epsilon(x.dtype) * float(np.abs(x).max(initial=0))
        if spacing > np.abs(shifts).max(initial=0) and not np.iscomplexobj(shifts):
            raise ArgumentError(
                f"argument {self._box.argument_names[argnum]} of {self._box.name} has elements so "
                f"large that steps of {np.abs(shifts).max():g} are below their precision. Pass a "
                'larger `h`, or dtype="float64" where the function is wrapped.'
            )

    def _vectors(self, argnum: int, shifts: Shifts) -> np.ndarray:
        """Return the direction of each shift."""
        if shifts.block.kind == "random":
            return self._directions[shifts.block][argnum][..., shifts.elements, :]
        return (self._inputs[shifts.block.position] / self.norm(shifts.block))[..., None, :]

    def scale(self, argnum: int) -> np.ndarray:
        """Return what steps are relative to, for each element."""
        if argnum not in self._scales:
            self._scales[argnum] = np.maximum(1, np.abs(self._inputs[argnum]))
        return self._scales[argnum]

    def norm(self, block: Block) -> np.ndarray:
        """Return the length of an input that is a direction, so that its steps are bounded."""
        if block not in self._norms:
            lengths = np.abs(self._inputs[block.position])
            if block.is_relative:
                lengths = lengths / self.scale(self._argnum(block))
            norm = lengths.max(-1, keepdims=True, initial=0)
            self._norms[block] = np.where(norm == 0, 1, norm)
        return self._norms[block]

    def weight(self, weight: Weight) -> np.ndarray | None:
        """Return the factor of each row, besides its coefficient; None where there is none."""
        block = weight.block
        if block.kind == "input":
            return self.norm(block)
        if block.kind == "random":
            return None
        factor = None if weight.input is None else to_real_elements(self._inputs[weight.input])
        factor = None if factor is None else factor[..., weight.elements]
        if block.is_relative:
            scale = self.scale(block.position)
            inverse = 1 / scale[..., weight.elements % scale.shape[-1]]
            factor = inverse if factor is None else factor * inverse
        return factor

    def directions(self, block: Block, argnum: int) -> np.ndarray:
        """Return the random directions of a primal."""
        return self._directions[block][argnum]

    def describe(self, points: PointSet, point: int) -> str:
        """Say how a point differs from the primals."""
        parts = [
            self._describe_shift(shifts, int(k))
            for shifts in points.shifts
            for k in np.flatnonzero(shifts.point_indices == point)
        ]
        return f"for a derivative, at {' and '.join(parts)}" if parts else ""

    def _describe_shift(self, shifts: Shifts, k: int) -> str:
        block, shift = shifts.block, shifts.shifts[k]
        if block.kind == "random":
            return f"{shift:+.6g} along a random direction"
        argnum = self._argnum(block)
        name, spec = self._box.argument_names[argnum], self._box.primals[argnum]
        if block.kind == "input":
            return f"{name} shifted by {shift:.6g} along a direction"
        index = ", ".join(map(str, np.unravel_index(int(shifts.elements[k]), spec.shape)))
        of_scale = f" max(1, |{name}|)" if block.is_relative else ""
        return f"{name}{f'[{index}]' if index else ''} shifted by {shift:.6g}{of_scale}"
