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
    contiguous_copy,
    contiguous_view,
    copy_from,
    dlpack_capsule,
    dtype_of,
    from_capsule,
    host_view,
    is_contiguous,
    is_plain,
    replacement,
)
from bridge._arrays.mlx.streams import compute_stream, renew_after_fork
from bridge._arrays.mlx.threads import on_python_thread
from bridge._arrays.mlx.transforms import evaluate, is_traced
from bridge._arrays.numpy import narrow_checked
from bridge._core.array_protocols import DeviceStream, PytreeNode
from bridge._core.errors import ArgumentError, CopyError, DeviceError, NoValuesError
from bridge._core.op import Arrays, Op, Specs
from bridge._core.spec import ArraySpec, check_output_count


class MlxArrays:
    """MLX's arrays, which live in memory that the host sees, wherever they are computed."""

    name = "mlx"
    requires_contiguous = True
    compute_context = compute_stream
    unwrap_key = wrap_key = None

    def is_array(self, x: Any) -> bool:
        """Whether `x` is an array."""
        return isinstance(x, mx.array)

    def spec(self, x: Any) -> ArraySpec:
        """Shape and dtype."""
        return ArraySpec(x.shape, NAMES[x.dtype])

    signature = operator.attrgetter("shape", "dtype")

    target_signature = signature
    target_spec = spec

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Copies of buffers, since MLX cannot compute over memory of others."""

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            return [x if _is_ours(x) else copy_from(x) for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Capsules over dense memory, all evaluated in one go."""
        return functools.partial(_release, set())

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Evaluate `op`, and copy its outputs to where they belong."""
        if stream is not None:
            raise DeviceError(f"{op.name} is a function of MLX, which computes on the host.")
        on_python_thread(lambda: self._fill(op, operands, results))

    def _fill(self, op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
        xs = [copy_from(x) for x in operands]
        with compute_stream():
            outputs = op.call_into(results, xs) if op.call_into else op.call(*xs)
            evaluate(outputs)
        check_output_count(outputs, results, op.name)
        for i, (y, place) in enumerate(zip(outputs, results, strict=True)):
            found = narrow_checked(host_view(y), place.dtype, op.name)
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
            return [contiguous_view(x) if isinstance(x, mx.array) else x for x in xs]

        return lend

    def read_values(self, x: mx.array) -> np.ndarray:
        """NumPy's view of `x`, also within `mx.grad`."""
        evaluate([x])
        return contiguous_view(x)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Copies of what capsules hold."""

        def adopt(buffers: Sequence[Any]) -> Arrays:
            renew_after_fork()
            return tuple(map(from_capsule, buffers))

        return adopt

    def supports_dtype(self, dtype: str) -> bool:
        """Whether MLX has a dtype of this name."""
        return dtype in DTYPES

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Why results of this dtype cannot be had, and what to write instead."""
        return (
            f"which mlx has no counterpart of. Convert it in the function, to {replacement(dtype)}."
        )

    def check_dtype(self, dtype: str) -> None:
        """Raise for a dtype that MLX lacks."""
        dtype_of(dtype)

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Nothing: MLX has no arrays without values."""
        raise NoValuesError("MLX has no arrays without values.")

    def export(self, x: Any, *, dense: bool, copy: bool | None, whole: bool = True) -> np.ndarray:
        """NumPy's view of `x`; a copy where others could not take its strides."""
        evaluate([x])
        self.check_not_traced(x)
        found = host_view(x)
        if is_plain(found) and (found.flags.forc or not dense):
            return found
        if copy is False:
            raise CopyError("copy=False, but it has strides that cannot be shared.")
        return contiguous_copy(found)

    def check_not_traced(self, x: mx.array) -> mx.array:
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
        renew_after_fork()  # for what is made of it, before that is evaluated
        found = copy_from(x)
        if copy is False:
            raise CopyError("copy=False, but MLX copies whatever it takes from others.")
        return found

    def made(self, x: Any) -> mx.array:
        """An array of a Python number or of an array of NumPy."""
        return copy_from(x) if isinstance(x, np.ndarray) else mx.array(x)

    def pytree_node(self, x: Any) -> PytreeNode | None:
        """An `mlx.nn.Module`, which is a dictionary of its parameters with methods."""
        nn = sys.modules.get("mlx.nn")
        return (_flatten_module, _unflatten_module) if nn and isinstance(x, nn.Module) else None


@dataclasses.dataclass(frozen=True)
class _Module:
    """What of a module is no array: its class, the names in it, and its attributes."""

    kind: Any
    names: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


def _flatten_module(module: Any) -> tuple[tuple[Any, ...], _Module, tuple[str, ...]]:
    names = tuple(module)
    fixed = tuple((name, _hashable(value)) for name, value in sorted(vars(module).items()))
    return tuple(module.values()), _Module(type(module), names, fixed), names


def _hashable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, set) else value


def _unflatten_module(about: _Module, children: Iterable[Any]) -> Any:
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
        arrays = _contiguous(arrays, [y.shape in gapped for y in arrays])
    evaluate(arrays)
    gaps = [not is_contiguous(y) for y in arrays]
    if True in gaps:
        gapped |= {y.shape for y, has in zip(arrays, gaps, strict=True) if has}
        arrays = _contiguous(arrays, gaps)
        evaluate(arrays)
    capsules = iter([dlpack_capsule(y) for y in arrays])
    return [y.capsule() if isinstance(y, Handle) else next(capsules) for y in outputs]


def _contiguous(xs: Sequence[mx.array], which: Sequence[bool]) -> list[mx.array]:
    with compute_stream(wide=mx.float64 in [x.dtype for x in xs]):
        return [mx.contiguous(x) if has else x for x, has in zip(xs, which, strict=True)]


def as_constants(xs: Sequence[mx.array]) -> list[mx.array]:
    """Copies of `xs` that depend on nothing, which takes their values."""
    evaluate(xs)
    return [copy_from(host_view(x)) for x in xs]


ARRAYS = MlxArrays()
