"""Words that compute element by element, where no target has an operator that does just that."""

from collections.abc import Callable
from typing import Any

from bridge._lowering.dtypes import (
    bit_width,
    integer_limits,
    is_complex,
    is_integer,
    is_real,
    is_unsigned,
)
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.rules.integers import in_order, is_carried, wrap

Compute = Callable[..., Any]


def _select(i: Instruction, f: Operations) -> Compute:
    if i.inputs[0].dtype == "bool":
        if len(i.inputs) == 2:
            return lambda _, x: x
        return lambda condition, x, y: f.where(condition, y, x)

    def select(index: Any, *cases: Any) -> Any:
        result = cases[-1]
        for k in range(len(cases) - 2, -1, -1):
            result = f.where(f.native["eq"](index, k), cases[k], result)
        return result

    return select


def _clamp(i: Instruction, f: Operations) -> Compute:
    order = lambda x: in_order(x, i.dtype, f)
    most, least = f.native["max"], f.native["min"]
    if is_complex(i.dtype):
        raise i.refuse("complex numbers have no order that targets agree on.")
    return lambda low, x, high: order(least(most(order(x), order(low)), order(high)))


def _integer_power(i: Instruction, f: Operations) -> Compute:
    exponent = i["y"]
    multiply = lambda x, y: wrap(f.native["mul"](x, y), i.dtype, f)

    def power(x: Any) -> Any:
        if exponent == 0:
            return f.full(i.shape, 1, i.dtype, x)
        result, factor, rest = None, x, abs(exponent)
        while rest:
            if rest & 1:
                result = factor if result is None else multiply(result, factor)
            rest >>= 1
            if rest:
                factor = multiply(factor, factor)
        if exponent > 0:
            return result
        return f.native["div"](f.full((), 1, i.dtype, x), result)

    if exponent < 0 and is_integer(i.dtype):
        raise i.refuse("it takes the inverse of integers.")
    return power


def _convert(i: Instruction, f: Operations) -> Compute:
    source, result = i.inputs[0].dtype, i.dtype
    if source == result:
        return lambda x: x
    if result == "bool":
        return lambda x: f.native["ne"](x, 0)
    if is_complex(source) and not is_complex(result):
        real = f"float{bit_width(source) // 2}"
        inner = _convert_real(real, result, f)
        return lambda x: inner(f.native["real"](x))
    return _convert_real(source, result, f)


def _convert_real(source: str, result: str, f: Operations) -> Compute:
    if source == result:
        return lambda x: x
    if is_real(source) and is_integer(result):
        return lambda x: _saturate(x, source, result, f)
    if source == "uint64" and is_carried(source, f) and not is_integer(result):
        return lambda x: _from_words(x, result, f)
    return lambda x: wrap(f.cast(x, result), result, f)


def _saturate(x: Any, source: str, result: str, f: Operations) -> Any:
    """Return floats as integers: the nearest that there is, and 0 for NaN."""
    if source != "float64":  # so that the limits of 32 bits are numbers
        x = f.cast(x, "float64")
    low, high = integer_limits(result)
    is_number = f.native["eq"](x, x)
    zero = f.full((), 0, "float64", x)
    x = f.where(is_number, x, zero)
    above, below = f.native["ge"](x, float(high)), f.native["le"](x, float(low))
    inside = f.where(f.native["or"](above, below), zero, x)
    if result == "uint64":  # of which the signed carrier has the bits
        large = f.native["ge"](inside, 2.0**63)
        shift = f.full((), 2.0**63, "float64", x)
        carried = f.cast(f.where(large, f.native["sub"](inside, shift), inside), "int64")
        integer = f.where(large, f.native["xor"](carried, -(2**63)), carried)
        high = -1
    else:
        integer = f.cast(inside, result)
    integer = f.where(above, f.full((), high, result, x), integer)
    return f.where(below, f.full((), low, result, x), integer)


def _from_words(x: Any, result: str, f: Operations) -> Any:
    """Return unsigned integers of 64 bits, carried by their bits, as floats."""
    n = f.native
    half = n["or"](n["and"](n["shift_right"](x, 1), 2**63 - 1), n["and"](x, 1))
    doubled = f.cast(half, result)
    return f.where(n["lt"](x, 0), n["add"](doubled, doubled), f.cast(x, result))


_FORMATS = {(8, 7): "bfloat16", (5, 10): "float16", (8, 23): "float32", (11, 52): "float64"}


def _reduce_precision(i: Instruction, f: Operations) -> Compute:
    exponent, mantissa = i["exponent_bits"], i["mantissa_bits"]
    short = _FORMATS.get((exponent, mantissa))
    if short is None:
        raise i.refuse(f"no dtype has {exponent} bits of exponent and {mantissa} of mantissa.")
    if short == i.dtype or bit_width(short) > bit_width(i.dtype):
        return lambda x: x
    return lambda x: f.cast(f.cast(x, short), i.dtype)


def _sign(i: Instruction, f: Operations) -> Compute:
    if is_unsigned(i.dtype):
        return lambda x: f.cast(f.native["ne"](x, 0), i.dtype)
    sign = f.native["sign"]
    if is_real(i.dtype):
        return lambda x: f.where(f.native["eq"](x, x), sign(x), x)
    return sign


def _round(i: Instruction, f: Operations) -> Compute:
    n = f.native
    if i["to_even"]:
        return n["round_to_even"]

    def away_from_zero(x: Any) -> Any:
        below = n["floor"](n["abs"](x))
        half = n["ge"](n["sub"](n["abs"](x), below), 0.5)
        up = n["add"](below, f.cast(half, i.dtype))
        return f.where(n["lt"](x, 0), n["neg"](up), up)

    return away_from_zero


def _absolute(i: Instruction, f: Operations) -> Compute:
    return (lambda x: x) if is_unsigned(i.dtype) or i.dtype == "bool" else f.native["abs"]


def _conjugate(i: Instruction, f: Operations) -> Compute:
    if is_complex(i.inputs[0].dtype):
        return f.native["conj"]
    return lambda x: f.cast(x, i.dtype)


def _narrow(i: Instruction, f: Operations) -> Compute:
    return lambda x: f.narrow(x, i.outputs[0], i["label"])


RULES = {
    "select_n": _select,
    "clamp": _clamp,
    "integer_pow": _integer_power,
    "convert_element_type": _convert,
    "reduce_precision": _reduce_precision,
    "sign": _sign,
    "round": _round,
    "abs": _absolute,
    "conj": _conjugate,
    "narrow_integers": _narrow,
    "copy": lambda i, f: lambda x: x,
}
