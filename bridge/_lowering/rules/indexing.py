"""Words that read and write at indices which are values.

NOTE [linear positions]
Windows at computed places are read and written by their linear positions in the flattened operand.
A mode says what becomes of a window that is not within the operand: it is moved inside (`CLIP`),
or its elements are `fill_value`, or its updates are dropped. Dropped ones go to one more element
at the end, which is cut off.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bridge._lowering.dtypes import integer_limits, is_integer, is_unsigned
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.rules.integers import is_carried, wrap

Compute = Callable[..., Any]
_INDEX = "int64"


def _element_strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _as_index(x: Any, dtype: str, f: Operations) -> Any:
    """Return integers as indices; those that are too large for one are the largest."""
    if dtype == "uint64" and is_carried(dtype, f):
        return f.where(f.native["lt"](x, 0), f.full((), 2**63 - 1, _INDEX, x), x)
    return f.cast(x, _INDEX)


class _Windows:
    """The places of windows in an array, from an array of indices.

    Attributes:
        batch: The shape of the indices without their last axis.
        sizes: The sizes of a window along `axes`.
        axes: The axes of the operand that a window extends along; it is 1 along the others.
    """

    def __init__(
        self,
        shape: Sequence[int],
        indices: Any,
        axes: Sequence[int],
        sizes: Sequence[int],
        indexed_axes: Sequence[int],
        batching: Sequence[tuple[int, int]],
        *,
        clips: bool,
    ) -> None:
        self.shape, self.axes, self.sizes = shape, axes, tuple(sizes)
        self.batch, self._dtype = indices.shape[:-1], indices.dtype
        self._indexed_axes, self._batching, self._clips = indexed_axes, batching, clips
        self._strides = _element_strides(shape)
        self._extent = dict(zip(axes, sizes, strict=True))

    def positions(self, indices: Any, f: Operations) -> tuple[Any, Any]:
        """Return linear positions `[*batch, *sizes]`, and which windows are inside, None if all."""
        indices = _as_index(indices, self._dtype, f)
        n, inside = f.native, None
        base = f.full(self.batch, 0, _INDEX, indices)
        for k, axis in enumerate(self._indexed_axes):
            start = self._column(indices, k, f)
            top = self.shape[axis] - self._extent.get(axis, 1)
            if not self._clips:
                fits = n["and"](n["ge"](start, 0), n["le"](start, top))
                inside = fits if inside is None else n["and"](inside, fits)
            start = f.clip(start, 0, max(top, 0))
            base = n["add"](base, n["mul"](start, self._strides[axis]))
        for axis, batch_axis in self._batching:
            size = self.batch[batch_axis]
            aligned = [size if d == batch_axis else 1 for d in range(len(self.batch))]
            steps = n["mul"](f.arange(size, _INDEX, indices), self._strides[axis])
            base = n["add"](base, f.reshape(steps, aligned))
        return self._extend(base, f), inside

    def _column(self, indices: Any, k: int, f: Operations) -> Any:
        rank = len(self.batch) + 1
        low, high = [0] * (rank - 1) + [k], [*self.batch, k + 1]
        return f.reshape(f.slice(indices, low, high, [1] * rank), self.batch)

    def _extend(self, base: Any, f: Operations) -> Any:
        """Return the positions of all elements of windows that begin at `base`."""
        positions = f.reshape(base, (*self.batch, *[1] * len(self.sizes)))
        for number, (axis, size) in enumerate(zip(self.axes, self.sizes, strict=True)):
            if size == 1:
                continue
            aligned = [size if d == number else 1 for d in range(len(self.sizes))]
            steps = f.native["mul"](f.arange(size, _INDEX, base), self._strides[axis])
            positions = f.native["add"](
                positions, f.reshape(steps, [*[1] * len(self.batch), *aligned])
            )
        return f.broadcast(positions, (*self.batch, *self.sizes))

    def mask(self, inside: Any, f: Operations) -> Any:
        """Return which elements are of windows that are inside."""
        return f.reshape(inside, (*self.batch, *[1] * len(self.sizes)))


def _fill_value(i: Instruction) -> Any:
    value, dtype = i["fill_value"], i.dtype
    if value is not None:
        return value.item() if hasattr(value, "item") else value
    if dtype == "bool":
        return True
    if is_integer(dtype):
        return integer_limits(dtype)[is_unsigned(dtype)]
    return math.nan


def _gather(i: Instruction, f: Operations) -> Compute:
    shape, sizes = i.inputs[0].shape, i["slice_sizes"]
    if not math.prod(i.shape):
        return lambda x, _: f.full(i.shape, 0, i.dtype, x)
    dropped = {*i["collapsed_slice_dims"], *i["operand_batching_dims"]}
    kept = [axis for axis in range(len(shape)) if axis not in dropped]
    batching = [*zip(i["operand_batching_dims"], i["start_indices_batching_dims"], strict=True)]
    windows = _Windows(
        shape,
        i.inputs[1],
        kept,
        [sizes[axis] for axis in kept],
        i["start_index_map"],
        batching,
        clips=i["mode"] in ("CLIP", "PROMISE_IN_BOUNDS"),
    )
    permutation = _output_permutation(len(i.shape), i["offset_dims"])
    fill = _fill_value(i)
    read = _read_rows(i, windows, f) or (lambda x, indices: _read_elements(x, indices, windows, f))

    def gather(x: Any, indices: Any) -> Any:
        y, inside = read(x, indices)
        if inside is not None:
            y = f.where(windows.mask(inside, f), y, f.full((), fill, i.dtype, x))
        return f.permute(y, permutation)

    return gather


def _output_permutation(rank: int, offset_axes: Sequence[int]) -> list[int]:
    """Return where the axes of `[*batch, *window]` go in the result."""
    batch_axes = [axis for axis in range(rank) if axis not in offset_axes]
    order = [*batch_axes, *offset_axes]
    return [order.index(axis) for axis in range(rank)]


def _read_elements(x: Any, indices: Any, windows: _Windows, f: Operations) -> tuple[Any, Any]:
    positions, inside = windows.positions(indices, f)
    flat = f.reshape(x, (math.prod(windows.shape),))
    count = math.prod(f.shape(positions))
    y = f.take(flat, f.reshape(positions, (count,)), 0)
    return f.reshape(y, (*windows.batch, *windows.sizes)), inside


def _read_rows(i: Instruction, windows: _Windows, f: Operations) -> Compute | None:
    """Return what reads whole rows along one axis, which targets do at once; None for others."""
    shape, axes = windows.shape, i["start_index_map"]
    whole = all(size == shape[axis] for axis, size in zip(windows.axes, windows.sizes, strict=True))
    is_row = len(axes) == 1 and tuple(i["collapsed_slice_dims"]) == tuple(axes)
    if not (is_row and whole) or i["operand_batching_dims"]:
        return None
    (axis,), count = axes, math.prod(windows.batch)
    top, clips = shape[axis] - 1, i["mode"] in ("CLIP", "PROMISE_IN_BOUNDS")

    def read(x: Any, indices: Any) -> tuple[Any, Any]:
        start = f.reshape(_as_index(indices, i.inputs[1].dtype, f), windows.batch)
        n, inside = f.native, None
        if not clips:
            inside = n["and"](n["ge"](start, 0), n["le"](start, top))
        y = f.take(x, f.reshape(f.clip(start, 0, top), (count,)), axis)
        y = f.permute(y, [axis, *(d for d in range(len(shape)) if d != axis)])
        return f.reshape(y, (*windows.batch, *windows.sizes)), inside

    return read


def _scatter(i: Instruction, f: Operations) -> Compute:
    kind = i.word.removeprefix("scatter").removeprefix("_") or "set"
    _check_scatter(i, kind)
    shape, update_shape, window_axes = i.inputs[0].shape, i.inputs[2].shape, i["update_window_dims"]
    dropped = {*i["inserted_window_dims"], *i["operand_batching_dims"]}
    windows = _Windows(
        shape,
        i.inputs[1],
        [axis for axis in range(len(shape)) if axis not in dropped],
        [update_shape[axis] for axis in window_axes],
        i["scatter_dims_to_operand_dims"],
        [*zip(i["operand_batching_dims"], i["scatter_indices_batching_dims"], strict=True)],
        clips=i["mode"] == "CLIP",
    )
    batch_axes = [axis for axis in range(len(update_shape)) if axis not in window_axes]
    permutation, size = (*batch_axes, *window_axes), math.prod(shape)
    if not math.prod(update_shape) or not size:
        return lambda x, *_: x

    def scatter(x: Any, indices: Any, updates: Any) -> Any:
        positions, inside = windows.positions(indices, f)
        updates = f.permute(f.native["neg"](updates) if kind == "sub" else updates, permutation)
        count = math.prod(f.shape(positions))
        flat, updates = f.reshape(x, (size,)), f.reshape(updates, (count,))
        if inside is not None:
            end = f.full((), size, _INDEX, x)
            positions = f.where(windows.mask(inside, f), positions, end)
            flat = f.concatenate([flat, f.full((1,), 0, i.dtype, x)], 0)
        positions = f.reshape(positions, (count,))
        y = f.scatter("add" if kind == "sub" else kind, flat, positions, updates)
        y = f.slice(y, [0], [size], [1]) if inside is not None else y
        return wrap(f.reshape(y, shape), i.dtype, f)

    return scatter


def _check_scatter(i: Instruction, kind: str) -> None:
    if kind != "set" and i.dtype == "bool":
        raise i.refuse("it combines truth values.")
    if kind in ("min", "max") and i.dtype.startswith(("complex", "uint64")):
        raise i.refuse(f"it compares {i.dtype}.")
    if kind == "mul" and i.dtype.startswith("complex"):
        raise i.refuse("it multiplies complex numbers at indices.")


def _starts(i: Instruction, starts: Sequence[Any], sizes: Sequence[int], f: Operations) -> Any:
    """Return for each axis the start of a window, moved inside, as far as it can move."""
    shape = i.inputs[0].shape
    specs = i.inputs[len(i.inputs) - len(starts) :]
    for axis, (start, spec) in enumerate(zip(starts, specs, strict=True)):
        if sizes[axis] != shape[axis]:
            yield axis, f.clip(_as_index(start, spec.dtype, f), 0, shape[axis] - sizes[axis])


def _dynamic_slice(i: Instruction, f: Operations) -> Compute:
    sizes = i["slice_sizes"]

    def read(x: Any, *starts: Any) -> Any:
        for axis, start in _starts(i, starts, sizes, f):
            places = f.native["add"](f.arange(sizes[axis], _INDEX, x), start)
            x = f.take(x, places, axis)
        return x

    return read


def _dynamic_update_slice(i: Instruction, f: Operations) -> Compute:
    shape, sizes = i.inputs[0].shape, i.inputs[1].shape
    strides, size, count = _element_strides(shape), math.prod(shape), math.prod(sizes)
    if not count:
        return lambda x, *_: x

    def write(x: Any, update: Any, *starts: Any) -> Any:
        if sizes == shape:
            return update
        moved = dict(_starts(i, starts, sizes, f))
        positions = f.full([1] * len(shape), 0, _INDEX, x)
        for axis, extent in enumerate(sizes):
            steps = f.arange(extent, _INDEX, x)
            steps = f.native["add"](steps, moved[axis]) if axis in moved else steps
            aligned = [extent if d == axis else 1 for d in range(len(shape))]
            part = f.reshape(f.native["mul"](steps, strides[axis]), aligned)
            positions = f.native["add"](positions, part)
        places = f.reshape(f.broadcast(positions, sizes), (count,))
        flat = f.scatter("set", f.reshape(x, (size,)), places, f.reshape(update, (count,)))
        return f.reshape(flat, shape)

    return write


RULES = {
    "gather": _gather,
    **dict.fromkeys(
        (
            *("scatter", "scatter_add", "scatter_sub"),
            *("scatter_mul", "scatter_min", "scatter_max"),
        ),
        _scatter,
    ),
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}
