"""Primitives of JAX that are words of the core vocabulary, and their parameters there."""

from collections.abc import Callable
from typing import Any

from bridge._lowering.vocabulary import WORDS

Parameters = dict[str, Any]

# Parameters that do not change values, apart from the precision of products, of which a target
# computes with the highest that it has.
_WITHOUT_MEANING = frozenset(
    [
        "sharding",
        "out_sharding",
        "weak_type",
        "accuracy",
        "indices_are_sorted",
        "unique_indices",
        "precision",
        "is_stable",
    ]
)


def _scatter(params: Parameters) -> Parameters:
    numbers = params["dimension_numbers"]
    names = WORDS["scatter"][1][:-1]
    return {name: tuple(getattr(numbers, name)) for name in names} | {"mode": params["mode"].name}


def _gather(params: Parameters) -> Parameters:
    numbers = params["dimension_numbers"]
    names = WORDS["gather"][1][:-3]
    return {name: tuple(getattr(numbers, name)) for name in names} | {
        "slice_sizes": tuple(params["slice_sizes"]),
        "mode": params["mode"].name,
        "fill_value": params["fill_value"],
    }


def _convolution(params: Parameters) -> Parameters:
    numbers = params["dimension_numbers"]
    specs = {name: getattr(numbers, name) for name in ("lhs_spec", "rhs_spec", "out_spec")}
    names = set(WORDS["conv_general_dilated"][1]) - set(specs)
    return specs | {name: params[name] for name in names}


def _product(params: Parameters) -> Parameters:
    contracting, batch = params["dimension_numbers"]
    return {"contracting": contracting, "batch": batch}


def _selection(params: Parameters) -> Parameters:
    rest = {name: value for name, value in params.items() if name != "select_prim"}
    return rest | {"largest": params["select_prim"].name == "ge"}


def _loop(params: Parameters) -> Parameters:
    return {"body": params["jaxpr"], "length": params["length"], "reverse": params["reverse"]} | {
        "constant_count": params["num_consts"],
        "carry_count": params["num_carry"],
    }


def _while(params: Parameters) -> Parameters:
    return {
        "condition": params["cond_jaxpr"],
        "body": params["body_jaxpr"],
        "condition_constants": params["cond_nconsts"],
        "body_constants": params["body_nconsts"],
    }


def _only(*names: str) -> Callable[[Parameters], Parameters]:
    return lambda params: {name: params[name] for name in names}


def _nothing(_: Parameters) -> Parameters:
    return {}


def _axis(params: Parameters) -> Parameters:
    (axis,) = params["axes"]
    return {"axis": axis}


def _svd(params: Parameters) -> Parameters:
    return {"full_matrices": params["full_matrices"], "compute_uv": params["compute_uv"]}


# By primitive: the word, the parameters of JAX that have meaning, and what makes ours of them.
Translation = tuple[str, tuple[str, ...], Callable[[Parameters], Parameters]]
_SCATTER = ("dimension_numbers", "mode", "update_jaxpr", "update_consts")
_CHANGED: dict[str, Translation] = {
    **{
        primitive: (primitive.replace("-", "_"), _SCATTER, _scatter)
        for word in WORDS
        if word.startswith("scatter")
        for primitive in (word, word.replace("_", "-"))
    },
    "add_any": ("add", (), _nothing),
    "gather": ("gather", ("dimension_numbers", "slice_sizes", "mode", "fill_value"), _gather),
    "dot_general": ("dot_general", ("dimension_numbers", "preferred_element_type"), _product),
    "conv_general_dilated": (
        "conv_general_dilated",
        (
            *("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers"),
            *("feature_group_count", "batch_group_count", "preferred_element_type"),
        ),
        _convolution,
    ),
    "select_and_scatter_add": (
        "select_and_scatter_add",
        ("select_prim", "window_dimensions", "window_strides", "padding"),
        _selection,
    ),
    "select_and_gather_add": (
        "select_and_gather_add",
        (
            *("select_prim", "window_dimensions", "window_strides", "padding"),
            *("base_dilation", "window_dilation"),
        ),
        _selection,
    ),
    "scan": (
        "scan",
        ("jaxpr", "length", "reverse", "num_consts", "num_carry", "unroll", "linear"),
        _loop,
    ),
    "while": (
        "while",
        ("cond_jaxpr", "body_jaxpr", "cond_nconsts", "body_nconsts"),
        _while,
    ),
    "cond": ("cond", ("branches", "branches_platforms"), _only("branches")),
    "argmax": ("argmax", ("axes", "index_dtype"), _axis),
    "argmin": ("argmin", ("axes", "index_dtype"), _axis),
    "round": ("round", ("rounding_method",), lambda p: {"to_even": int(p["rounding_method"]) == 1}),
    "fft": (
        "fft",
        ("fft_type", "fft_lengths"),
        lambda p: {"kind": p["fft_type"].name, "fft_lengths": p["fft_lengths"]},
    ),
    "squeeze": ("reshape", ("dimensions",), _nothing),
    "expand_dims": ("reshape", ("dimensions",), _nothing),
    "reshape": ("reshape", ("new_sizes", "dimensions"), _nothing),
    "broadcast_in_dim": (
        "broadcast_in_dim",
        ("shape", "broadcast_dimensions"),
        _only("broadcast_dimensions"),
    ),
    "iota": ("iota", ("dtype", "shape", "dimension"), _only("dimension")),
    "convert_element_type": ("convert_element_type", ("new_dtype",), _nothing),
    "bitcast_convert_type": ("bitcast_convert_type", ("new_dtype",), _nothing),
    "conj": ("conj", ("input_dtype",), _nothing),
    "top_k": ("top_k", ("k", "axis", "operand"), _only("k", "axis")),
    "empty": ("empty", ("shape", "dtype"), _nothing),
    "empty2": ("empty", ("dtype", "shape", "memory_space"), _nothing),
    "cholesky": ("cholesky", ("symmetrize_input",), _nothing),
    "tridiagonal_solve": ("tridiagonal_solve", ("perturbation", "algorithm"), _nothing),
    "lu_pivots_to_permutation": ("lu_pivots_to_permutation", ("permutation_size",), _nothing),
    "geqrf": ("geqrf", ("use_magma",), _nothing),
    "qr": ("qr", ("pivoting", "full_matrices", "use_magma"), _only("full_matrices")),
    "svd": ("svd", ("full_matrices", "compute_uv", "subset_by_index", "algorithm"), _svd),
    "eigh": (
        "eigh",
        ("lower", "sort_eigenvalues", "subset_by_index", "algorithm"),
        _only("lower"),
    ),
    "eig": (
        "eig",
        (
            *("compute_left_eigenvectors", "compute_right_eigenvectors"),
            *("enable_eigvec_derivs", "implementation"),
        ),
        lambda p: {"right": p["compute_right_eigenvectors"]},
    ),
}
# What a primitive must have to be the word.
_REQUIRED: dict[str, Parameters] = {
    "qr": {"pivoting": False},
    "svd": {"subset_by_index": None},
    "eigh": {"sort_eigenvalues": True, "subset_by_index": None},
    "eig": {"compute_left_eigenvectors": False},
    "reshape": {"dimensions": None},
    "tridiagonal_solve": {"perturbation": None},
}


def find_translation(primitive: str) -> Translation | None:
    """Return how a primitive becomes a word; None if it is none."""
    if primitive in _CHANGED:
        return _CHANGED[primitive]
    if primitive not in WORDS:
        return None
    names = WORDS[primitive][1]
    return primitive, names, _only(*names)


def unknown_parameter(primitive: str, params: Parameters) -> str | None:
    """Return the name of a parameter with a meaning that the word has not; None without one."""
    translation = find_translation(primitive)
    known = set(translation[1]) if translation else set[str]()
    required = _REQUIRED.get(primitive, {})
    for name, value in params.items():
        if name in required and value != required[name]:
            return f"{name}={value!r}"
        if value is not None and name not in known and name not in _WITHOUT_MEANING:
            return f"{name}={value!r}"
    return None
