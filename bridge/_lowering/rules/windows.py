"""Words about windows at regular places: pooling, its derivatives, convolutions."""

import math
from collections.abc import Callable
from typing import Any

from bridge._lowering.dtypes import is_half, is_integer
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.rules.reductions import check_has_order, neutral_element, reduction
from bridge._lowering.rules.shapes import padded

Compute = Callable[..., Any]


def _all_windows(x: Any, value: Any, i: Instruction, f: Operations) -> Any:
    """Return the windows of `x`, padded with `value`: `[*places, *window]`."""
    rank = len(i["window_dimensions"])
    base = i.parameters.get("base_dilation") or [1] * rank
    dilation = i.parameters.get("window_dilation") or [1] * rank
    config = [(*edges, step - 1) for edges, step in zip(i["padding"], base, strict=True)]
    x = padded(x, value, config, f)
    return f.windows(x, i["window_dimensions"], i["window_strides"], dilation)


def _reduce_window(i: Instruction, f: Operations) -> Compute:
    kind, dtype, rank = i.word.removeprefix("reduce_window_"), i.dtype, len(i.shape)
    if dtype == "uint64":
        raise i.refuse("it is of uint64.")
    if dtype == "bool" and kind == "sum":
        raise i.refuse("it adds truth values.")
    value, axes = neutral_element(kind, dtype), tuple(range(rank, 2 * rank))
    single = kind == "sum" and is_half(dtype)
    working = "float32" if single else dtype
    reduce = reduction(kind, working, axes, i, f)

    def compute(x: Any) -> Any:
        x = f.cast(x, working) if single else x
        windows = _all_windows(x, f.full((), value, working, x), i, f)
        return f.cast(reduce(windows), dtype)

    return compute


def _chosen_places(x: Any, i: Instruction, f: Operations) -> Any:
    """Return for each window the number of the element that is chosen, `[windows, 1]`."""
    kind = "max" if i["largest"] else "min"
    dtype = i.inputs[1].dtype
    value = f.full((), neutral_element(kind, dtype), dtype, x)
    size = math.prod(i["window_dimensions"])
    windows = _all_windows(x, value, i, f)
    count = math.prod(f.shape(windows)) // size
    best = f.argument(kind, f.reshape(windows, (count, size)), 1)
    return f.reshape(f.cast(best, "int64"), (count, 1))


def _select_and_scatter(i: Instruction, f: Operations) -> Compute:
    check_has_order(i, i.dtype)
    shape, rank = i.inputs[1].shape, len(i.inputs[1].shape)
    pairs = [*zip(shape, i["padding"], strict=True)]
    outer = tuple(n + low + high for n, (low, high) in pairs)
    lows = [low for low, _ in i["padding"]]
    if min(low for edges in i["padding"] for low in edges) < 0 or i.dtype == "uint64":
        raise i.refuse("its padding is negative, or its dtype uint64.")
    size, count = math.prod(i["window_dimensions"]), math.prod(i.inputs[0].shape)
    total = math.prod(outer)
    limits = [low + n for n, (low, _) in pairs]

    def scatter(source: Any, x: Any) -> Any:
        best = _chosen_places(x, i, f)
        numbers = f.reshape(f.arange(total, "int64", x), outer)
        ones = [1] * rank
        numbers = f.windows(numbers, i["window_dimensions"], i["window_strides"], ones)
        places = f.take_along(f.reshape(numbers, (count, size)), best, 1)
        zeros = f.full((total,), 0, i.dtype, x)
        y = f.scatter("add", zeros, f.reshape(places, (count,)), f.reshape(source, (count,)))
        return f.slice(f.reshape(y, outer), lows, limits, ones)

    return scatter


def _select_and_gather(i: Instruction, f: Operations) -> Compute:
    check_has_order(i, i.dtype)
    size, count = math.prod(i["window_dimensions"]), math.prod(i.shape)
    if i.dtype == "uint64":
        raise i.refuse("it is of uint64.")

    def gather(tangent: Any, x: Any) -> Any:
        best = _chosen_places(x, i, f)
        tangents = _all_windows(tangent, f.full((), 0, i.dtype, x), i, f)
        chosen = f.take_along(f.reshape(tangents, (count, size)), best, 1)
        return f.reshape(chosen, i.shape)

    return gather


def _convolution(i: Instruction, f: Operations) -> Compute:
    space, features, batches = len(i.shape) - 2, i["feature_group_count"], i["batch_group_count"]
    if is_integer(i.dtype) or not 1 <= space <= 3:
        raise i.refuse(f"it is of {i.dtype} along {space} axes.")
    output_order = [i["out_spec"].index(axis) for axis in range(len(i.shape))]
    dilated = zip(i["padding"], i["lhs_dilation"], strict=True)
    config = [(0, 0, 0), (0, 0, 0), *((*edges, step - 1) for edges, step in dilated)]
    dtype = i.inputs[0].dtype if i.inputs[0].dtype == i.dtype else i.dtype
    if i.inputs[0].dtype != i.inputs[1].dtype:
        raise i.refuse(f"it is of {i.inputs[0].dtype} with {i.inputs[1].dtype}.")

    def convolve(x: Any, w: Any) -> Any:
        x = f.permute(f.cast(x, dtype), i["lhs_spec"])
        w = f.permute(f.cast(w, dtype), i["rhs_spec"])
        x = padded(x, f.full((), 0, dtype, x), config, f)
        if batches > 1:
            n, c, *sizes = f.shape(x)
            x = f.reshape(x, (batches, n // batches, c, *sizes))
            x = f.permute(x, (1, 0, *range(2, space + 3)))
            x = f.reshape(x, (n // batches, batches * c, *sizes))
        groups = batches if batches > 1 else features
        y = f.convolve(x, w, i["window_strides"], i["rhs_dilation"], groups)
        return f.permute(y, output_order)

    return convolve


RULES = {
    "reduce_window_sum": _reduce_window,
    "reduce_window_max": _reduce_window,
    "reduce_window_min": _reduce_window,
    "select_and_scatter_add": _select_and_scatter,
    "select_and_gather_add": _select_and_gather,
    "conv_general_dilated": _convolution,
}
