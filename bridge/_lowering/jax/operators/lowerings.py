"""The table of operators, what its functions are told of results, and how dtypes are decided.

NOTE [rules of operators]
A rule takes what torch says of its results, then what the operator takes. Its results are cast to
the dtypes that torch says; their shapes must be those. Which dtype it computes in is its own
affair: torch promotes by other rules than JAX, where arrays without axes meet others.

NOTE [16 bits]
Torch computes with floats of 16 bits in single precision, and rounds results once: numbers of
Python such as `alpha` are never rounded, squares and sums are not lost. A lowering with
`compute_in_float32` does the same: its arguments and the dtypes it is told of have 32 bits. It
costs nothing that XLA would not do: on CPUs XLA computes so itself, on others it fuses conversions.
Products of matrices and convolutions do without it: there XLA sums up in single precision anyway.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bridge._core.spec import ArraySpec
from bridge._lowering.user import USER_LOWERINGS, Lowering


@dataclasses.dataclass(frozen=True)
class OutputInfo:
    """What torch says of the results of an operator.

    Attributes:
        specs: Of the results, `None` for what is no array.
        key: For random numbers, if it draws some.
    """

    specs: Sequence[ArraySpec | None]
    key: Any = None

    @property
    def spec(self) -> ArraySpec:
        """Of the first result."""
        return next(spec for spec in self.specs if spec)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.spec.shape

    @property
    def dtype(self) -> Any:
        """Of the first result."""
        return jnp.dtype(self.spec.dtype)


_TABLE: dict[str, Lowering] = {}


def lowering(*names: str) -> Callable[[Lowering], Lowering]:
    """A decorator that adds a rule for these operators: NOTE [rules of operators]."""

    def add(rule: Lowering) -> Lowering:
        _TABLE.update(dict.fromkeys(names, rule))
        return rule

    return add


def compute_in_float32(rule: Lowering) -> Lowering:
    """A rule that computes with 32 bits where arrays have floats of 16: NOTE [16 bits]."""

    def computed(out: OutputInfo, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(to_accumulation_dtype, (args, kwargs))
        return rule(
            OutputInfo([spec and _output_info(spec) for spec in out.specs], out.key),
            *args,
            **kwargs,
        )

    return computed


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype in which numbers of a dtype are added up: NOTE [16 bits]."""
    return jnp.dtype("float32" if jnp.dtype(dtype).name in _SHORT else dtype)


_SHORT = ("float16", "bfloat16")


def to_accumulation_dtype(x: Any) -> Any:
    """`x` with 32 bits if it is an array with floats of 16."""
    return cast(x, accumulation_dtype(x.dtype)) if isinstance(x, jax.Array) else x


def _output_info(spec: ArraySpec) -> ArraySpec:
    return dataclasses.replace(spec, dtype=accumulation_dtype(spec.dtype).name)


def find_lowering(name: str) -> Lowering | None:
    """What computes an operator: what the user registered, or what is built in."""
    theirs = USER_LOWERINGS.get(name)
    if theirs is None:
        return _TABLE.get(name)
    return lambda _, *args, **kwargs: theirs(*args, **kwargs)


def cast(x: Any, dtype: Any) -> jax.Array:
    """`x` in another dtype, as torch converts: the real part of complex numbers."""
    x, dtype = jnp.asarray(x), jnp.dtype(dtype)
    if x.dtype == dtype:
        return x
    if dtype == jnp.bool_:
        return x != 0
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        x = jnp.real(x)
    return lax.convert_element_type(x, dtype)


_KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


def _rank(dtype: Any) -> int:
    return next(i for i, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind))


def common_dtype(*xs: Any) -> Any:
    """The dtype that torch compares numbers and arrays in.

    Arrays with axes decide, then arrays without, then numbers: what comes later only matters if it
    is of a higher kind.
    """
    numbers = [x for x in xs if isinstance(x, (bool, int, float, complex))]
    arrays = [x for x in xs if not isinstance(x, (bool, int, float, complex))]
    found: Any = None
    for level in ([x for x in arrays if x.ndim], [x for x in arrays if not x.ndim]):
        if level:
            dtype = jnp.result_type(*(x.dtype for x in level)) if len(level) > 1 else level[0].dtype
            found = (
                _promote(found, dtype) if found is None or _rank(dtype) > _rank(found) else found
            )
    for number in numbers:
        dtype = _NUMBERS[type(number)]
        if found is None or _rank(dtype) > _rank(found):
            found = _promote(found, dtype)
    return found


_NUMBERS = {bool: np.bool_, int: np.int64, float: np.float32, complex: np.complex64}


def _promote(found: Any, dtype: Any) -> Any:
    """The dtype of what is of a higher kind than what was found, whose precision decides."""
    if found is None or not jnp.issubdtype(found, jnp.floating):
        return dtype
    return np.complex128 if found == np.float64 else np.complex64
