"""The core vocabulary: the words that sources list programs in, with their parameters.

The words are those of `jax.lax`, and mean what these do: https://docs.jax.dev/en/latest/jax.lax.html.
"""

from collections.abc import Collection

_UNARY = [
    "abs",
    "neg",
    "sign",
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "sqrt",
    "rsqrt",
    "cbrt",
    "square",
    "floor",
    "ceil",
    "logistic",
    "erf",
    "erfc",
    "erf_inv",
    "lgamma",
    "digamma",
    "bessel_i0e",
    "bessel_i1e",
    "is_finite",
    "real",
    "imag",
    "conj",
    "not",
    "population_count",
    "clz",
    "copy",
]
_BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "rem",
    "pow",
    "max",
    "min",
    "atan2",
    "complex",
    "nextafter",
    "igamma",
    "igammac",
    "zeta",
    "polygamma",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "xor",
    "shift_left",
    "shift_right_logical",
    "shift_right_arithmetic",
]
_REDUCTIONS = [
    "reduce_sum",
    "reduce_prod",
    "reduce_max",
    "reduce_min",
    "reduce_and",
    "reduce_or",
    "reduce_xor",
]
_CUMULATIVE = ["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"]
_SCATTERS = ["scatter", "scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max"]
_WINDOW = ("window_dimensions", "window_strides", "padding")
_DILATED_WINDOW = (*_WINDOW, "base_dilation", "window_dilation")

# By word: how many operands it takes, None for any number, and the names of its parameters.
WORDS: dict[str, tuple[int | None, tuple[str, ...]]] = {
    **dict.fromkeys(_UNARY, (1, ())),
    **dict.fromkeys(_BINARY, (2, ())),
    **dict.fromkeys(_REDUCTIONS, (1, ("axes",))),
    **dict.fromkeys(_CUMULATIVE, (1, ("axis", "reverse"))),
    # A scatter has dimension numbers as separate parameters, as a gather has.
    **dict.fromkeys(
        _SCATTERS,
        (
            3,
            (
                "update_window_dims",
                "inserted_window_dims",
                "scatter_dims_to_operand_dims",
                "operand_batching_dims",
                "scatter_indices_batching_dims",
                "mode",
            ),
        ),
    ),
    "gather": (
        2,
        (
            "offset_dims",
            "collapsed_slice_dims",
            "start_index_map",
            "operand_batching_dims",
            "start_indices_batching_dims",
            "slice_sizes",
            "mode",
            "fill_value",
        ),
    ),
    # Comparisons by the total order of IEEE 754, in which -0 is less than 0, and NaN has a place.
    **dict.fromkeys(("eq_to", "le_to", "lt_to"), (2, ())),
    "convert_element_type": (1, ()),
    "bitcast_convert_type": (1, ()),
    "reduce_precision": (1, ("exponent_bits", "mantissa_bits")),
    "integer_pow": (1, ("y",)),
    "round": (1, ("to_even",)),
    "narrow_integers": (1, ("label",)),
    "clamp": (3, ()),
    "select_n": (None, ()),
    "argmax": (1, ("axis",)),
    "argmin": (1, ("axis",)),
    "sort": (None, ("dimension", "num_keys")),
    "top_k": (1, ("k", "axis")),
    "reshape": (1, ()),
    "transpose": (1, ("permutation",)),
    "broadcast_in_dim": (1, ("broadcast_dimensions",)),
    "concatenate": (None, ("dimension",)),
    "split": (1, ("sizes", "axis")),
    "slice": (1, ("start_indices", "limit_indices", "strides")),
    "rev": (1, ("dimensions",)),
    "pad": (2, ("padding_config",)),
    "iota": (0, ("dimension",)),
    "empty": (0, ()),
    "dynamic_slice": (None, ("slice_sizes",)),
    "dynamic_update_slice": (None, ()),
    "dot_general": (2, ("contracting", "batch")),
    "conv_general_dilated": (
        2,
        (
            "window_strides",
            "padding",
            "lhs_dilation",
            "rhs_dilation",
            "lhs_spec",
            "rhs_spec",
            "out_spec",
            "feature_group_count",
            "batch_group_count",
        ),
    ),
    "reduce_window_sum": (1, _DILATED_WINDOW),
    "reduce_window_max": (1, _DILATED_WINDOW),
    "reduce_window_min": (1, _DILATED_WINDOW),
    "select_and_scatter_add": (2, (*_WINDOW, "largest")),
    "select_and_gather_add": (2, (*_DILATED_WINDOW, "largest")),
    "fft": (1, ("kind", "fft_lengths")),
    "cholesky": (1, ()),
    "triangular_solve": (
        2,
        ("left_side", "lower", "transpose_a", "conjugate_a", "unit_diagonal"),
    ),
    "tridiagonal_solve": (4, ()),
    "lu": (1, ()),
    "lu_pivots_to_permutation": (1, ()),
    "geqrf": (1, ()),
    "householder_product": (2, ()),
    "qr": (1, ("full_matrices",)),
    "svd": (1, ("full_matrices", "compute_uv")),
    "eigh": (1, ("lower",)),
    "eig": (1, ("right",)),
    "scan": (None, ("body", "length", "reverse", "constant_count", "carry_count")),
    "while": (None, ("condition", "body", "condition_constants", "body_constants")),
    "cond": (None, ("branches",)),
}


def check_word(word: str, operand_count: int, parameters: Collection[str]) -> None:
    """Raise unless a source has listed an operation as the vocabulary says."""
    count, names = WORDS[word]
    if count not in (None, operand_count) or set(names) != set(parameters):
        raise ValueError(
            f"{word} takes {count} operands and {names}, but a source listed it with "
            f"{operand_count} and {tuple(parameters)}."
        )
