"""Words that compute along axes: reductions, cumulative ones, sorting."""

import math
from collections.abc import Callable
from typing import Any

from bridge._lowering.dtypes import (
    integer_limits,
    is_complex,
    is_half,
    is_integer,
    is_real,
)
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.rules.integers import in_order, is_carried, wrap

Compute = Callable[..., Any]


def neutral_element(kind: str, dtype: str) -> Any:
    """Return what a reduction begins with, a number."""
    if kind in ("sum", "prod"):
        return 0 if kind == "sum" else 1
    if dtype == "bool":
        return kind == "min"
    if is_integer(dtype):
        return integer_limits(dtype)[kind == "min"]
    return -math.inf if kind == "max" else math.inf


def reduction(kind: str, dtype: str, axes: Any, i: Instruction, f: Operations) -> Compute:
    """Return the reduction of arrays of `dtype` over axes."""
    if kind in ("max", "min"):
        check_has_order(i, dtype)
        if dtype == "uint64" and is_carried(dtype, f):
            order = lambda x: in_order(x, dtype, f)
            return lambda x: order(f.reduce(kind, order(x), axes, "int64"))
    return lambda x: wrap(f.reduce(kind, x, axes, dtype), dtype, f)


def check_has_order(i: Instruction, dtype: str) -> None:
    """Raise for complex numbers."""
    if is_complex(dtype):
        raise i.refuse("complex numbers have no order that targets agree on.")


def _reduce(i: Instruction, f: Operations) -> Compute:
    kind, axes, dtype = i.word.removeprefix("reduce_"), tuple(i["axes"]), i.inputs[0].dtype
    if kind in ("and", "or", "xor") and dtype != "bool":
        raise i.refuse("it combines the bits of integers.")
    if not axes:
        return lambda x: x
    if kind == "xor":
        parity = lambda x: f.native["and"](f.reduce("sum", f.cast(x, "int32"), axes, "int32"), 1)
        return lambda x: f.native["ne"](parity(x), 0)
    if kind in ("max", "min") and not math.prod(i.inputs[0].shape[axis] for axis in axes):
        return lambda x: f.full(i.shape, neutral_element(kind, dtype), dtype, x)
    if kind == "prod" and is_half(dtype):
        return lambda x: f.cast(f.reduce(kind, f.cast(x, "float32"), axes, "float32"), dtype)
    return reduction(kind, dtype, axes, i, f)


def _argument(i: Instruction, f: Operations) -> Compute:
    kind, dtype = i.word.removeprefix("arg"), i.inputs[0].dtype
    check_has_order(i, dtype)
    return lambda x: f.cast(f.argument(kind, in_order(x, dtype, f), i["axis"]), i.dtype)


def _cumulative(i: Instruction, f: Operations) -> Compute:
    kind, axis, dtype = i.word.removeprefix("cum"), i["axis"], i.dtype
    if kind in ("max", "min"):
        check_has_order(i, dtype)
        if dtype == "uint64":
            raise i.refuse("it compares uint64.")
    single = is_half(dtype) and kind not in ("max", "min")
    inner = "float32" if single else dtype

    def accumulate(x: Any) -> Any:
        if not f.shape(x)[axis]:
            return x
        x = f.flip(x, (axis,)) if i["reverse"] else x
        x = f.cast(x, inner) if single else x
        y = f.cast(f.cumulative(kind, x, axis, inner), dtype)
        y = f.flip(y, (axis,)) if i["reverse"] else y
        return wrap(y, dtype, f)

    return accumulate


def _sort(i: Instruction, f: Operations) -> Compute:
    axis, key_count = i["dimension"], i["num_keys"]

    def keys_of(k: int, x: Any) -> list[Any]:
        """Return what an array is sorted by, the last first."""
        if is_complex(i.inputs[k].dtype):
            return [f.native["imag"](x), f.native["real"](x)]
        return [in_order(x, i.inputs[k].dtype, f)]

    def sort(*xs: Any) -> Any:
        order: Any = None
        for k in reversed(range(key_count)):
            for key in keys_of(k, xs[k]):
                key = key if order is None else f.take_along(key, order, axis)
                step = f.argsort(key, axis, descending=False)
                order = step if order is None else f.take_along(order, step, axis)
        results = [f.take_along(x, order, axis) for x in xs]
        return results if len(results) > 1 else results[0]

    return sort


def _top_k(i: Instruction, f: Operations) -> Compute:
    dtype, axis, rank = i.inputs[0].dtype, i["axis"], len(i.shape)
    check_has_order(i, dtype)
    limits = i.shape
    if not (is_real(dtype) or is_integer(dtype)):
        raise i.refuse(f"it sorts {dtype}.")

    def top(x: Any) -> list[Any]:
        order = f.argsort(in_order(x, dtype, f), axis, descending=True)
        order = f.slice(order, [0] * rank, limits, [1] * rank)
        return [f.take_along(x, order, axis), f.cast(order, i.outputs[1].dtype)]

    return top


RULES = {
    **{f"reduce_{kind}": _reduce for kind in ("sum", "prod", "max", "min", "and", "or", "xor")},
    **{f"cum{kind}": _cumulative for kind in ("sum", "prod", "max", "min", "logsumexp")},
    "argmax": _argument,
    "argmin": _argument,
    "sort": _sort,
    "top_k": _top_k,
}
