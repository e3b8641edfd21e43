"""The table of lowerings, with the tools that they share: casts, promotion, 16-bit floats.

NOTE [rules of operators]
A lowering takes an `OutputInfo`, what torch says about the results, and then the arguments of the
operator. Its results must have the shapes that torch says, and are cast to its dtypes. A lowering
decides itself in which dtype it computes: torch promotes by other rules than JAX, as when arrays
without axes meet others.

NOTE [16 bits]
Torch computes with 16-bit floats in single precision, and rounds results once: Python numbers such
as `alpha` are never rounded, and squares and sums keep their precision. A lowering with
`compute_in_float32` does the same: its arguments and the dtypes in its `OutputInfo` have 32 bits.
This costs nothing: on CPUs XLA computes so itself, on others it fuses the conversions. Products of
matrices and convolutions do without it, since XLA accumulates these in single precision anyway.
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
    """What torch says about the results of an operator, for a lowering.

    Attributes:
        specs: The specs of the results, `None` for a result that is not an array.
        key: The key for random numbers, if the operator draws any.
    """

    specs: Sequence[ArraySpec | None]
    key: Any = None

    @property
    def first_spec(self) -> ArraySpec:
        """The spec of the first result."""
        return next(spec for spec in self.specs if spec)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.first_spec.shape

    @property
    def dtype(self) -> Any:
        """The dtype of the first result."""
        return jnp.dtype(self.first_spec.dtype)


_TABLE: dict[str, Lowering] = {}


def lowering(*names: str) -> Callable[[Lowering], Lowering]:
    """Register the lowering of these operators; a decorator: NOTE [rules of operators]."""

    def add(rule: Lowering) -> Lowering:
        _TABLE.update(dict.fromkeys(names, rule))
        return rule

    return add


def compute_in_float32(rule: Lowering) -> Lowering:
    """Make a lowering compute 16-bit floats in 32 bits; a decorator: NOTE [16 bits]."""

    def compute(out: OutputInfo, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(to_accumulation_dtype, (args, kwargs))
        return rule(
            OutputInfo([spec and _with_accumulation_dtype(spec) for spec in out.specs], out.key),
            *args,
            **kwargs,
        )

    return compute


def accumulation_dtype(dtype: Any) -> Any:
    """Return the dtype in which numbers of this dtype are added up: NOTE [16 bits]."""
    return jnp.dtype("float32" if jnp.dtype(dtype).name in _16_BIT_FLOATS else dtype)


_16_BIT_FLOATS = ("float16", "bfloat16")


def to_accumulation_dtype(x: Any) -> Any:
    """Cast `x` to 32 bits if it is an array of 16-bit floats."""
    return cast(x, accumulation_dtype(x.dtype)) if isinstance(x, jax.Array) else x


def _with_accumulation_dtype(spec: ArraySpec) -> ArraySpec:
    return dataclasses.replace(spec, dtype=accumulation_dtype(spec.dtype).name)


def find_lowering(name: str) -> Lowering | None:
    """Return the lowering of an operator, the user's before ours; `None` if there is none."""
    user_lowering = USER_LOWERINGS.get(name)
    if user_lowering is None:
        return _TABLE.get(name)
    return lambda _, *args, **kwargs: user_lowering(*args, **kwargs)


def cast(x: Any, dtype: Any) -> jax.Array:
    """Convert `x` to another dtype as torch does: complex numbers lose their imaginary part."""
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
    """Return the dtype in which torch compares numbers and arrays.

    Arrays with axes decide, then arrays without, then numbers: a later group only matters if its
    kind is higher, as complex is higher than floating.
    """
    numbers = [x for x in xs if isinstance(x, (bool, int, float, complex))]
    arrays = [x for x in xs if not isinstance(x, (bool, int, float, complex))]
    common: Any = None
    for group in ([x for x in arrays if x.ndim], [x for x in arrays if not x.ndim]):
        if group:
            dtype = jnp.result_type(*(x.dtype for x in group)) if len(group) > 1 else group[0].dtype
            if common is None or _rank(dtype) > _rank(common):
                common = _promote_kind(common, dtype)
    for number in numbers:
        dtype = _NUMBER_DTYPES[type(number)]
        if common is None or _rank(dtype) > _rank(common):
            common = _promote_kind(common, dtype)
    return common


_NUMBER_DTYPES = {bool: np.bool_, int: np.int64, float: np.float32, complex: np.complex64}


def _promote_kind(common: Any, dtype: Any) -> Any:
    """Return a dtype of the higher kind of `dtype`, with the precision of `common`, if any."""
    if common is None or not jnp.issubdtype(common, jnp.floating):
        return dtype
    return np.complex128 if common == np.float64 else np.complex64
