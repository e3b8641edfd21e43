"""Operators that look up rows of a table, one by one or in bags."""

from typing import Any

import jax.numpy as jnp

from bridge._lowering.jax.operators.bounds import READ, WRITE, negative_out_of_bounds
from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering

_SUM, _MEAN, _MAX = range(3)  # the modes of bags, by torch's numbers


@lowering("aten.embedding.default")
def _embedding(out: OutputInfo, weight: Any, index: Any, *_: Any, **__: Any) -> Any:
    return jnp.take(weight, negative_out_of_bounds(index, weight.shape[0]), 0, **READ)


@lowering("aten.embedding_dense_backward.default")
@compute_in_float32
def _embedding_backward(
    out: OutputInfo,
    gradient: Any,
    index: Any,
    count: int,
    padding: int,
    by_frequency: bool,
) -> Any:
    rows, index = gradient.reshape(-1, gradient.shape[-1]), index.reshape(-1)
    rows = _per_occurrence(rows, index, count) if by_frequency else rows
    return _sum_rows(rows, index, out.shape, padding)


def _per_occurrence(rows: Any, index: Any, count: int) -> Any:
    """Divide the gradient of each row by how often the row is read."""
    seen = jnp.zeros(count, rows.dtype).at[index].add(1)
    return rows / seen[index][:, None]


def _sum_rows(rows: Any, index: Any, shape: Any, padding: int) -> Any:
    """Sum rows with the same index, leaving out the index of the padding."""
    index = jnp.where(index == padding, shape[0], negative_out_of_bounds(index, shape[0]))
    return jnp.zeros(shape, rows.dtype).at[index].add(rows, **WRITE)


@lowering("aten.embedding_renorm.default")
@compute_in_float32
def _renormalize(out: OutputInfo, weight: Any, index: Any, most: float, order: float) -> Any:
    sizes = jnp.linalg.norm(weight, ord=order, axis=-1, keepdims=True)
    read = jnp.zeros(weight.shape[0], bool).at[index.reshape(-1)].set(values=True, **WRITE)
    shrunk = weight * (most / (sizes + 1e-7))  # the constant is torch's
    return jnp.where(read[:, None] & (sizes > most), shrunk, weight)


def _bags(index: Any, offsets: Any, count: int, padding: int) -> Any:
    """Return the bag of each index; an index in no bag, as padding, gets one after the last."""
    bag = jnp.searchsorted(offsets, jnp.arange(index.shape[0]), side="right") - 1
    return jnp.where(index == padding, count, jnp.where(bag < 0, count, bag))


def _sizes(bag: Any, count: int) -> Any:
    return jnp.zeros(count, "int64").at[bag].add(1, **WRITE)


@lowering("aten._embedding_bag.default", "aten._embedding_bag_forward_only.default")
@compute_in_float32
def _embedding_bag(
    out: OutputInfo,
    weight: Any,
    index: Any,
    offsets: Any,
    by_frequency: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    factors: Any = None,
    include_last: bool = False,
    padding: int = -1,
) -> tuple[Any, ...]:
    del by_frequency, sparse, include_last  # of the gradient; what is last shows in the shape
    count, (_, of_bags, sizes, places) = out.shape[0], out.specs
    bag = _bags(index, offsets, count, padding)
    rows = jnp.take(weight, negative_out_of_bounds(index, weight.shape[0]), 0, **READ)
    rows = rows if factors is None else rows * factors[:, None]
    within = _sizes(bag, count)
    # Results that only torch's gradient reads can have other shapes: zeros do then.
    statistics = [_zeros_unless_shaped(within * 0, of_bags), _zeros_unless_shaped(within, sizes)]
    if mode == _MAX:
        largest = jnp.full(out.shape, -jnp.inf, rows.dtype).at[bag].max(rows, **WRITE)
        best = _first_of_largest(
            index, bag, rows == largest[jnp.minimum(bag, count - 1)], out.shape
        )
        largest = jnp.where(within[:, None] == 0, 0, largest)
        return largest, *statistics, _zeros_unless_shaped(best, places)
    total = jnp.zeros(out.shape, rows.dtype).at[bag].add(rows, **WRITE)
    if mode == _MEAN:
        total = total / jnp.maximum(within, 1)[:, None].astype(total.dtype)
    return total, *statistics, _zeros_unless_shaped(within, places)


def _zeros_unless_shaped(x: Any, spec: Any) -> Any:
    return x if x.shape == spec.shape else jnp.zeros(spec.shape, x.dtype)


def _first_of_largest(index: Any, bag: Any, largest: Any, shape: Any) -> Any:
    """Return the first row with the largest number of each bag, -1 if there is none."""
    count = index.shape[0]
    places = jnp.where(largest, jnp.arange(count)[:, None], count)
    first = jnp.full(shape, count).at[bag].min(places, **WRITE)
    return index.at[first].get(mode="fill", fill_value=-1)


@lowering("aten._embedding_bag_backward.default")
@compute_in_float32
def _embedding_bag_backward(
    out: OutputInfo,
    gradient: Any,
    index: Any,
    offsets: Any,
    of_bags: Any,
    sizes: Any,
    places: Any,
    count: int,
    by_frequency: bool,
    mode: int,
    sparse: bool,
    factors: Any,
    padding: int = -1,
) -> Any:
    del of_bags, sizes, sparse  # the first two follow from the offsets, a gradient is dense
    bags, width = gradient.shape
    if mode == _MAX:
        columns = jnp.broadcast_to(jnp.arange(width), places.shape)
        at = jnp.zeros(out.shape, gradient.dtype).at[negative_out_of_bounds(places, count), columns]
        return at.add(gradient, **WRITE)
    bag = _bags(index, offsets, bags, padding)
    if mode == _MEAN:
        gradient = gradient / jnp.maximum(_sizes(bag, bags), 1)[:, None].astype(gradient.dtype)
    rows = gradient.at[bag].get(mode="fill", fill_value=0)
    rows = rows if factors is None else rows * factors[:, None]
    rows = _per_occurrence(rows, index, count) if by_frequency else rows
    return _sum_rows(rows, index, out.shape, padding)


@lowering("aten._embedding_bag_per_sample_weights_backward.default")
@compute_in_float32
def _factors_backward(
    out: OutputInfo,
    gradient: Any,
    weight: Any,
    index: Any,
    offsets: Any,
    of_bags: Any,
    mode: int,
    padding: int = -1,
) -> Any:
    del of_bags, mode  # the first follows from the offsets, and only sums have factors
    bag = _bags(index, offsets, gradient.shape[0], padding)
    rows = gradient.at[bag].get(mode="fill", fill_value=0)
    return jnp.sum(
        rows * jnp.take(weight, negative_out_of_bounds(index, weight.shape[0]), 0, **READ), -1
    )
