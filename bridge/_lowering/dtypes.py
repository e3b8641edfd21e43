"""What the names of dtypes say."""

import re


def bit_width(dtype: str) -> int:
    """Return how many bits an element has."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8


def is_integer(dtype: str) -> bool:
    """Return True for integers, signed or not; False for truth values."""
    return dtype.startswith(("int", "uint"))


def is_unsigned(dtype: str) -> bool:
    """Return True for integers without a sign."""
    return dtype.startswith("uint")


def is_complex(dtype: str) -> bool:
    """Return True for complex numbers."""
    return dtype.startswith("complex")


def is_real(dtype: str) -> bool:
    """Return True for floating-point numbers that are not complex."""
    return dtype.startswith(("float", "bfloat"))


def is_half(dtype: str) -> bool:
    """Return True for floating-point numbers of 16 bits."""
    return dtype in ("float16", "bfloat16")


def integer_limits(dtype: str) -> tuple[int, int]:
    """Return the least and the greatest integer of a dtype."""
    bits = bit_width(dtype)
    if is_unsigned(dtype):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
