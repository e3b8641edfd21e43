"""Samples of operators of MLX by element or by pair of elements, and of reductions."""

import mlx.core as mx

from tests.suites.mlx_samples import Sample, complex_, positive, real, sample, small, whole

ELEMENTWISE: dict[str, Sample] = {}
# Divided by these, nothing is near a whole number.
DIVIDENDS, DIVISORS = mx.array([5.5, -3.3, 7.1]), mx.array([2.0, 1.5, 2.2])

ONE = [
    *(
        "abs",
        "arctan",
        "arcsinh",
        "ceil",
        "cos",
        "degrees",
        "erf",
        "exp",
        "expm1",
        "floor",
        "negative",
        "positive",
        "radians",
    ),
    *(
        "reciprocal",
        "round",
        "sigmoid",
        "sign",
        "sin",
        "sinh",
        "cosh",
        "softmax",
        "square",
        "tan",
        "tanh",
        "trunc",
        "logsumexp",
    ),
    *(
        "sum",
        "mean",
        "prod",
        "max",
        "min",
        "var",
        "std",
        "cumsum",
        "cummax",
        "cummin",
        "cumprod",
        "logcumsumexp",
        "sort",
        "argsort",
    ),
    *(
        "argmax",
        "argmin",
        "all",
        "any",
        "median",
        "isfinite",
        "isinf",
        "isnan",
        "isneginf",
        "isposinf",
        "logical_not",
    ),
    *(
        "nan_to_num",
        "contiguous",
        "conjugate",
        "flatten",
        "transpose",
        "diag",
        "diagonal",
        "trace",
        "tril",
        "triu",
    ),
    *(
        "zeros_like",
        "ones_like",
        "count_nonzero",
        "atleast_1d",
        "atleast_2d",
        "atleast_3d",
        "flip",
        "asarray",
    ),
    *("minmax", "real", "imag"),
]
TWO = [
    *(
        "add",
        "subtract",
        "multiply",
        "divide",
        "maximum",
        "minimum",
        "arctan2",
        "logaddexp",
        "equal",
        "not_equal",
    ),
    *(
        "greater",
        "greater_equal",
        "less",
        "less_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "allclose",
    ),
    *("isclose", "array_equal", "inner", "kron", "vecdot", "floor_divide"),
]
OF_COMPLEX = [
    *(
        "abs",
        "negative",
        "square",
        "exp",
        "sin",
        "cos",
        "tanh",
        "sqrt",
        "log",
        "sign",
        "cumsum",
        "sum",
        "mean",
        "prod",
        "cumprod",
    ),
    *(
        "conjugate",
        "real",
        "imag",
        "reciprocal",
        "logcumsumexp",
        "log1p",
        "sinh",
        "cosh",
        "tan",
        "arctan",
        "arcsin",
        "rsqrt",
    ),
    *(
        "logsumexp",
        "softmax",
        "arccos",
        "max",
        "cummax",
        "log2",
        "log10",
        "var",
        "std",
        "isfinite",
        "argmax",
    ),
]
TWO_OF_COMPLEX = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "power",
    "matmul",
    "inner",
    "maximum",
    "logaddexp",
    "kron",
    "vecdot",
]
ELEMENTWISE |= {name: sample(getattr(mx, name), real(3, 4)) for name in ONE if hasattr(mx, name)}
ELEMENTWISE |= {
    name: sample(getattr(mx, name), real(3, 4), real(3, 4)) for name in TWO if hasattr(mx, name)
}
ELEMENTWISE["divide"] = sample(mx.divide, real(3, 4), positive(3, 4))
ELEMENTWISE["floor_divide"] = sample(mx.floor_divide, DIVIDENDS, DIVISORS)
ELEMENTWISE |= {
    f"{name} of complex numbers": sample(getattr(mx, name), complex_(3, 4)) for name in OF_COMPLEX
}
ELEMENTWISE |= {
    f"{name} of complex numbers": sample(getattr(mx, name), complex_(3, 3), complex_(3, 3))
    for name in TWO_OF_COMPLEX
}
ELEMENTWISE |= {
    name: sample(getattr(mx, name), positive(3, 4) + 0.6)
    for name in ("log", "log10", "log1p", "log2", "rsqrt", "sqrt", "arccosh")
}
ELEMENTWISE |= {
    name: sample(getattr(mx, name), small(3, 4))
    for name in ("arccos", "arcsin", "arctanh", "erfinv")
}
ELEMENTWISE |= {
    name: sample(getattr(mx, name), whole(3, 4), whole(3, 4))
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift")
}
ELEMENTWISE["bitwise_invert"] = sample(mx.bitwise_invert, whole(3, 4))
ELEMENTWISE["power"] = sample(mx.power, positive(3, 4), real(3, 4))
ELEMENTWISE["outer"] = sample(mx.outer, real(3), real(4))
ELEMENTWISE["remainder"] = sample(mx.remainder, DIVIDENDS, DIVISORS)
