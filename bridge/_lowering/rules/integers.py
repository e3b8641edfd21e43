"""Exact integers: division that is total, shifts by any number, and unsigned ones that wrap."""

from collections.abc import Callable
from typing import Any

from bridge._lowering.dtypes import bit_width, integer_limits, is_integer, is_real, is_unsigned
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction

Compute = Callable[..., Any]
# Results of these may leave the range of unsigned integers that are carried in a wider dtype.
_LEAVES_RANGE = frozenset(["add", "sub", "mul", "neg", "not", "square"])


def is_carried(dtype: str, f: Operations) -> bool:
    """Return True if arrays of this dtype are carried in another."""
    return f.carrier(dtype) != dtype


def wrap(x: Any, dtype: str, f: Operations) -> Any:
    """Return `x` modulo the range of `dtype`, if it is carried in a wider one."""
    if not is_carried(dtype, f) or bit_width(f.carrier(dtype)) == bit_width(dtype):
        return x
    return f.native["and"](x, integer_limits(dtype)[1])


def wrapped(i: Instruction, f: Operations, compute: Compute) -> Compute:
    """Return `compute` of a word that may leave the range of its dtype."""
    if i.word not in _LEAVES_RANGE or not is_carried(i.dtype, f):
        return compute
    return lambda *xs: wrap(compute(*xs), i.dtype, f)


def in_order(x: Any, dtype: str, f: Operations) -> Any:
    """Return integers whose order as signed ones is that of `x`, and back."""
    if dtype == "uint64" and is_carried(dtype, f):
        return f.native["xor"](x, -(2**63))
    return x


def _compare(i: Instruction, f: Operations) -> Compute:
    compare, dtype = f.native[i.word], i.inputs[0].dtype
    if dtype != "uint64" or not is_carried(dtype, f):
        return compare
    return lambda x, y: compare(in_order(x, dtype, f), in_order(y, dtype, f))


def _extremum(i: Instruction, f: Operations) -> Compute:
    choose = f.native[i.word]
    if i.dtype.startswith("complex"):
        raise i.refuse("complex numbers have no order that targets agree on.")
    if i.dtype != "uint64" or not is_carried(i.dtype, f):
        return choose
    order = lambda x: in_order(x, i.dtype, f)
    return lambda x, y: order(choose(order(x), order(y)))


def _compare_totally(i: Instruction, f: Operations) -> Compute:
    """Return the comparison of floats by their bits, in which the sign turns the order."""
    compare, dtype = f.native[i.word.removesuffix("_to")], i.inputs[0].dtype
    if is_integer(dtype) or dtype == "bool":
        return lambda x, y: compare(in_order(x, dtype, f), in_order(y, dtype, f))
    if not is_real(dtype):
        raise i.refuse(f"it compares {dtype}.")
    bits = bit_width(dtype)
    integer = f"int{bits}"

    def key(x: Any) -> Any:
        x = f.bits(x, integer)
        sign = f.native["shift_right"](x, bits - 1)
        return f.native["xor"](x, f.native["and"](sign, 2 ** (bits - 1) - 1))

    return lambda x, y: compare(key(x), key(y))


def _divide(i: Instruction, f: Operations) -> Compute:
    if not is_integer(i.dtype):
        return f.native["div"]
    if i.dtype == "uint64" and is_carried(i.dtype, f):
        return lambda x, y: _divide_words(x, y, f)[0]
    least, most = integer_limits(i.dtype)
    by_zero = most if is_unsigned(i.dtype) else -1

    def divide(x: Any, y: Any) -> Any:
        one = f.full((), 1, i.dtype, x)
        is_zero = f.native["eq"](y, 0)
        safe = f.where(is_zero, one, y)
        if least:  # processors stop at the least integer by -1, which is itself
            safe = f.where(f.native["eq"](y, -1), one, safe)
        quotient = f.native["div_trunc"](x, safe)
        if least:
            quotient = f.where(f.native["eq"](y, -1), f.native["neg"](x), quotient)
        return f.where(is_zero, f.full((), by_zero, i.dtype, x), quotient)

    return divide


def _remainder(i: Instruction, f: Operations) -> Compute:
    if not is_integer(i.dtype):
        return f.native["rem"]
    if i.dtype == "uint64" and is_carried(i.dtype, f):
        return lambda x, y: _divide_words(x, y, f)[1]
    least, _ = integer_limits(i.dtype)

    def remainder(x: Any, y: Any) -> Any:
        one = f.full((), 1, i.dtype, x)
        is_zero = f.native["eq"](y, 0)
        safe = f.where(is_zero, one, y)
        if least:
            safe = f.where(f.native["eq"](y, -1), one, safe)
        return f.where(is_zero, x, f.native["rem"](x, safe))

    return remainder


def _divide_words(x: Any, y: Any, f: Operations) -> tuple[Any, Any]:
    """Return quotient and remainder of unsigned integers of 64 bits, by their bits."""
    n = f.native
    one, least = f.full((), 1, "int64", x), -(2**63)
    is_zero, is_large = n["eq"](y, 0), n["lt"](y, 0)  # as a signed integer
    safe = f.where(is_zero, one, f.where(is_large, one, y))
    half = n["and"](n["shift_right"](x, 1), 2**63 - 1)
    quotient = n["shift_left"](n["div_trunc"](half, safe), 1)
    rest = n["sub"](x, n["mul"](quotient, safe))
    greater = n["ge"](n["xor"](rest, least), n["xor"](safe, least))
    quotient = n["add"](quotient, f.cast(greater, "int64"))
    rest = f.where(greater, n["sub"](rest, safe), rest)
    fits = n["ge"](n["xor"](x, least), n["xor"](y, least))
    quotient = f.where(is_large, f.cast(fits, "int64"), quotient)
    rest = f.where(is_large, f.where(fits, n["sub"](x, y), x), rest)
    all_ones = f.full((), -1, "int64", x)
    return f.where(is_zero, all_ones, quotient), f.where(is_zero, x, rest)


def _shift_amount(y: Any, dtype: str, f: Operations) -> tuple[Any, Any]:
    """Return how far to shift, below the width, and where the amount is not."""
    bits = bit_width(dtype)
    inside = f.native["lt"](y, bits)
    if not is_unsigned(dtype) or (dtype == "uint64" and is_carried(dtype, f)):
        inside = f.native["and"](inside, f.native["ge"](y, 0))  # an amount is without a sign
    return f.clip(y, 0, bits - 1), inside


def _shift_left(i: Instruction, f: Operations) -> Compute:
    def shift(x: Any, y: Any) -> Any:
        amount, inside = _shift_amount(y, i.dtype, f)
        shifted = wrap(f.native["shift_left"](x, amount), i.dtype, f)
        return f.where(inside, shifted, f.full((), 0, i.dtype, x))

    return shift


def _shift_right_arithmetic(i: Instruction, f: Operations) -> Compute:
    if is_unsigned(i.dtype):
        raise i.refuse("it shifts unsigned integers as if they had a sign.")

    def shift(x: Any, y: Any) -> Any:
        amount, inside = _shift_amount(y, i.dtype, f)
        last = f.full((), bit_width(i.dtype) - 1, i.dtype, x)
        return f.native["shift_right"](x, f.where(inside, amount, last))

    return shift


def _shift_right_logical(i: Instruction, f: Operations) -> Compute:
    bits = bit_width(i.dtype)
    has_sign = not is_unsigned(i.dtype) or bit_width(f.carrier(i.dtype)) == bits
    has_sign = has_sign and i.dtype != "uint8"

    def shift(x: Any, y: Any) -> Any:
        amount, inside = _shift_amount(y, i.dtype, f)
        shifted = f.native["shift_right"](x, amount)
        if has_sign:  # copies of the sign have come in from the left
            one, zero = f.full((), 1, i.dtype, x), f.full((), 0, i.dtype, x)
            distance = f.clip(f.native["sub"](f.full((), bits, i.dtype, x), amount), 1, bits - 1)
            mask = f.native["sub"](f.native["shift_left"](one, distance), one)
            shifted = f.where(f.native["eq"](amount, zero), x, f.native["and"](shifted, mask))
        return f.where(inside, shifted, f.full((), 0, i.dtype, x))

    return shift


def _population_count(i: Instruction, f: Operations) -> Compute:
    bits = bit_width(i.dtype)

    def count(x: Any) -> Any:
        ones = [_bit(x, k, f) for k in range(bits)]
        total = ones[0]
        for one in ones[1:]:
            total = f.native["add"](total, one)
        return total

    return count


def _bit(x: Any, k: int, f: Operations) -> Any:
    return f.native["and"](f.native["shift_right"](x, k), 1)


def _leading_zeros(i: Instruction, f: Operations) -> Compute:
    bits = bit_width(i.dtype)

    def count(x: Any) -> Any:
        found = f.full(f.shape(x), bits, i.dtype, x)
        for k in range(bits):
            is_one = f.native["eq"](_bit(x, k, f), 1)
            found = f.where(is_one, f.full((), bits - 1 - k, i.dtype, x), found)
        return found

    return count


RULES = {
    **dict.fromkeys(("eq_to", "le_to", "lt_to"), _compare_totally),
    **dict.fromkeys(("lt", "le", "gt", "ge"), _compare),
    **dict.fromkeys(("max", "min"), _extremum),
    "div": _divide,
    "rem": _remainder,
    "shift_left": _shift_left,
    "shift_right_logical": _shift_right_logical,
    "shift_right_arithmetic": _shift_right_arithmetic,
    "population_count": _population_count,
    "clz": _leading_zeros,
}
