"""What MLX shows to bridge as a kind of array."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from bridge._arrays.mlx.handles import Handle
from bridge._arrays.mlx.memory import (
    DTYPES,
    NAMES,
    capsule,
    dense_view,
    dtype_of,
    is_dense,
    is_plain,
    of_capsule,
    packed,
    replacement,
    taken,
    view,
)
from bridge._arrays.mlx.streams import computing, unforked
from bridge._arrays.mlx.threads import in_own_thread
from bridge._arrays.mlx.transforms import evaluate, is_traced
from bridge._arrays.numpy import fitted
from bridge._core.errors import ArgumentError, CopyError, DeviceError, NoValuesError
from bridge._core.op import Arrays, Op, Specs
from bridge._core.protocols import Container, Stream
from bridge._core.spec import ArraySpec, check_count


class MlxArrays:
    """MLX's arrays, which live in memory that the host sees, wherever they are computed."""

    name = "mlx"
    dense = True
    working = computing
    opened = closed = None

    def owns(self, x: Any) -> bool:
        """Whether `x` is an array."""
        return isinstance(x, mx.array)

    def spec(self, x: Any) -> ArraySpec:
        """Shape and dtype."""
        return ArraySpec(x.shape, NAMES[x.dtype])

    signature = operator.attrgetter("shape", "dtype")

    key = signature
    seen = spec

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Copies of buffers, since MLX cannot compute over memory of others."""

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            return [x if _is_ours(x) else taken(x) for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Capsules over dense memory, all evaluated in one go."""
        return functools.partial(_release, set())

    def fill(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: Stream | None
    ) -> None:
        """Evaluate `op`, and copy its outputs to where they belong."""
        if stream is not None:
            raise DeviceError(f"{op.name} is a function of MLX, which computes on the host.")
        in_own_thread(lambda: self._fill(op, operands, results))

    def _fill(self, op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
        xs = [taken(x) for x in operands]
        with computing():
            outputs = op.into(results, xs) if op.into else op.call(*xs)
            evaluate(outputs)
        check_count(outputs, results, op.name)
        for i, (y, place) in enumerate(zip(outputs, results, strict=True)):
            found = fitted(view(y), place.dtype, op.name)
            if found.shape != place.shape or found.dtype != place.dtype:
                expected = ArraySpec(place.shape, place.dtype.name)
                raise ArgumentError(
                    f"result {i} of {op.name} is {self.spec(y)}, where {expected} was expected."
                )
            np.copyto(place, found)

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """NumPy views of arrays, all evaluated in one go."""

        def lend(xs: Sequence[Any]) -> Sequence[Any]:
            evaluate([x for x in xs if isinstance(x, mx.array)])
            return [dense_view(x) if isinstance(x, mx.array) else x for x in xs]

        return lend

    def values(self, x: mx.array) -> np.ndarray:
        """NumPy's view of `x`, also within `mx.grad`."""
        evaluate([x])
        return dense_view(x)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Copies of what capsules hold."""

        def adopt(buffers: Sequence[Any]) -> Arrays:
            unforked()
            return tuple(map(of_capsule, buffers))

        return adopt

    def holds(self, dtype: str) -> bool:
        """Whether MLX has a dtype of this name."""
        return dtype in DTYPES

    def lacking(self, dtype: str) -> str:
        """Why results of this dtype cannot be had, and what to write instead."""
        return (
            f"which mlx has no counterpart of. Convert it in the function, to {replacement(dtype)}."
        )

    def check_dtype(self, dtype: str) -> None:
        """Raise for a dtype that MLX lacks."""
        dtype_of(dtype)

    def empty(self, specs: Specs) -> Arrays:
        """Nothing: MLX has no arrays without values."""
        raise NoValuesError("MLX has no arrays without values.")

    def export(self, x: Any, *, dense: bool, copy: bool | None, whole: bool = True) -> np.ndarray:
        """NumPy's view of `x`; a copy where others could not take its strides."""
        evaluate([x])
        self.untraced(x)
        found = view(x)
        if is_plain(found) and (found.flags.forc or not dense):
            return found
        if copy is False:
            raise CopyError("copy=False, but it has strides that cannot be shared.")
        return packed(found)

    def untraced(self, x: mx.array) -> mx.array:
        """`x` as it is now; it is refused where it would lose its gradient."""
        if is_traced(x):
            raise ArgumentError(
                "an array inside of mx.grad or another transformation would lose its gradient, "
                "since values cross without it. Wrap the function that takes it, with torch2mlx "
                "or jax2mlx, or pass np.array(x), which is a constant."
            )
        return x[...]  # which does not change when `x` is written to

    def convert(self, x: Any, *, copy: bool | None) -> mx.array:
        """A copy of `x`, which MLX cannot do without."""
        unforked()  # for what is made of it, before that is evaluated
        found = taken(x)
        if copy is False:
            raise CopyError("copy=False, but MLX copies whatever it takes from others.")
        return found

    def made(self, x: Any) -> mx.array:
        """An array of a Python number or of an array of NumPy."""
        return taken(x) if isinstance(x, np.ndarray) else mx.array(x)

    def container(self, x: Any) -> Container | None:
        """An `mlx.nn.Module`, which is a dictionary of its parameters with methods."""
        nn = sys.modules.get("mlx.nn")
        return (_take, _build) if nn and isinstance(x, nn.Module) else None


@dataclasses.dataclass(frozen=True)
class _Module:
    """What of a module is no array: its class, the names in it, and its attributes."""

    kind: Any
    names: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


def _take(module: Any) -> tuple[tuple[Any, ...], _Module, tuple[str, ...]]:
    names = tuple(module)
    fixed = tuple((name, _hashable(value)) for name, value in sorted(vars(module).items()))
    return tuple(module.values()), _Module(type(module), names, fixed), names


def _hashable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, set) else value


def _build(about: _Module, children: Iterable[Any]) -> Any:
    module = about.kind.__new__(about.kind)
    dict.update(module, zip(about.names, children, strict=True))
    for name, value in about.attributes:
        vars(module)[name] = set(value) if isinstance(value, frozenset) else value
    return module


def _is_ours(x: Any) -> bool:
    """Whether `x` is an array already, or none that anybody made."""
    return isinstance(x, mx.array) or not hasattr(x, "__dlpack__")


def _release(gapped: set[tuple[int, ...]], outputs: Sequence[Any]) -> Sequence[Any]:
    """Capsules of `outputs`; shapes of which one had gaps are noted: NOTE [memory of their own]."""
    arrays = [y for y in outputs if not isinstance(y, Handle)]
    if gapped:
        arrays = _dense(arrays, [y.shape in gapped for y in arrays])
    evaluate(arrays)
    gaps = [not is_dense(y) for y in arrays]
    if True in gaps:
        gapped |= {y.shape for y, has in zip(arrays, gaps, strict=True) if has}
        arrays = _dense(arrays, gaps)
        evaluate(arrays)
    capsules = iter([capsule(y) for y in arrays])
    return [y.capsule() if isinstance(y, Handle) else next(capsules) for y in outputs]


def _dense(xs: Sequence[mx.array], which: Sequence[bool]) -> list[mx.array]:
    with computing(wide=mx.float64 in [x.dtype for x in xs]):
        return [mx.contiguous(x) if has else x for x, has in zip(xs, which, strict=True)]


def constants(xs: Sequence[mx.array]) -> list[mx.array]:
    """Copies of `xs` that depend on nothing, which takes their values."""
    evaluate(xs)
    return [taken(view(x)) for x in xs]


FACE = MlxArrays()
