"""What becomes of each dtype, by trying it."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mlx.core as mx
import torch

import bridge
from generate.frameworks import DIRECTIONS, TITLES, bridged, head, row

DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32", "float64"),
    *("complex64", "complex128"),
)
WIDE = ("int64", "uint64", "float64", "complex128")
COUNT = 1024


def _mlx_array(name: str) -> Any:
    return mx.zeros(COUNT, dtype=getattr(mx, {"bool": "bool_"}.get(name, name)))


def _jax_array(name: str) -> Any:
    # JAX has arrays of 64 bits in that mode only; outside of it they keep their dtype.
    with jax.enable_x64(name in WIDE):
        return jnp.zeros(COUNT, dtype=name).block_until_ready()


MAKE: dict[str, Callable[[str], Any]] = {
    "torch": lambda name: torch.zeros(COUNT, dtype=getattr(torch, name)),
    "jax": _jax_array,
    "mlx": _mlx_array,
}
LACKS = "—"
SEEN: list[str] = []


def _array(framework: str, name: str) -> Any:
    try:
        return MAKE[framework](name)
    except AttributeError:
        return None


def _dtype(array: Any) -> str:
    return str(array.dtype).rpartition(".")[2].removesuffix("_") if hasattr(array, "dtype") else ""


def _conversion(source: str, target: str, name: str) -> str:
    return _in_either_mode(_way, source, target, name)


def _in_either_mode(
    attempt: Callable[[str, str, str], str], source: str, target: str, name: str
) -> str:
    """What `attempt` finds, in JAX's 64-bit mode for arrays that JAX has in that mode only."""
    if target != "jax" or name not in WIDE:
        return attempt(source, target, name)
    with jax.enable_x64(True):
        way = attempt(source, target, name)
    return way if way[0] in f"`{LACKS}" else f"{way}, in 64-bit mode"


def _way(source: str, target: str, name: str) -> str:
    array, convert = _array(source, name), getattr(bridge, f"to_{target}")
    if array is None:
        return LACKS
    try:
        converted = convert(array, copy=False)
        way = "shared"
    except bridge.CopyError:
        converted = convert(array)
        way = "copied"
    except bridge.BridgeError as error:
        return f"`{type(error).__name__}`"
    return way if _dtype(converted) == name else f"{way}, as {_dtype(converted)}"


def _call(source: str, target: str, name: str) -> str:
    array = _array(target, name)
    if array is None:
        return LACKS

    def same(x: Any) -> Any:
        # Not by its name: a run that leaves no trace would put back what it can reach.
        vars(sys.modules[__name__])["SEEN"].append(_dtype(x))
        return x

    try:
        with warnings.catch_warnings(action="ignore"):  # `same` is wrapped again and again
            returned = bridged(source, target, same)(array)
        mx.eval(returned) if target == "mlx" else None
    except (bridge.BridgeError, ValueError) as error:
        return f"`{type(error).__name__}`"
    ways = [] if SEEN[-1] == name else [f"{SEEN[-1]} inside"]
    ways += [] if _dtype(returned) == name else [f"returned as {_dtype(returned)}"]
    return ", ".join(ways) or "yes"


def conversions() -> str:
    """`to_torch`, `to_jax` and `to_mlx` for arrays of each framework, on the CPU."""
    text = head("dtype", *(f"{TITLES[source]} → {TITLES[target]}" for source, target in DIRECTIONS))
    for name in DTYPES:
        cells = [_conversion(source, target, name) for source, target in DIRECTIONS]
        text += row(f"`{name}`", *cells)
    return text


def calls() -> str:
    """A function that returns its argument, called with each dtype."""
    text = head("dtype", *(f"`{source}2{target}`" for source, target in DIRECTIONS))
    for name in DTYPES:
        cells = [_in_either_mode(_call, *direction, name) for direction in DIRECTIONS]
        text += row(f"`{name}`", *cells)
    return text
