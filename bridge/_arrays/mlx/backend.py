"""The array backend of MLX."""

import dataclasses
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from bridge._arrays.mlx import addresses
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
    has_shareable_strides,
    host_view,
    is_contiguous,
    replacement_advice,
)
from bridge._arrays.mlx.streams import compute_stream, renew_after_fork
from bridge._arrays.mlx.threads import on_python_thread
from bridge._arrays.mlx.transforms import evaluate, is_traced
from bridge._arrays.numpy import copy_outputs
from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import ArgumentError, CopyError, DeviceError, NoValuesError
from bridge._core.op import Arrays, Op, Specs
from bridge._core.pure_module import ModuleView
from bridge._core.pytree import PytreeNodeFunctions
from bridge._core.sharding import WHOLE
from bridge._core.spec import ArraySpec


class MlxArrays:
    """MLX's arrays, whose memory the host can read wherever they are computed."""

    name = "mlx"
    scalar_types = ()
    rounding_advice = ""
    imports_only_contiguous = True
    compute_context = compute_stream
    unwrap_key = wrap_key = None
    shards = WHOLE
    adopting_copy_reason = addresses.ADOPTING_COPY_REASON
    address = staticmethod(addresses.address)
    example = staticmethod(addresses.example)
    lending_copy_reason = staticmethod(addresses.lending_copy_reason)
    borrowing_copy_reason = staticmethod(addresses.borrowing_copy_reason)

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an array of MLX."""
        return isinstance(x, mx.array)

    def spec(self, x: Any) -> ArraySpec:
        """Return shape and dtype."""
        return ArraySpec(x.shape, NAMES[x.dtype])

    signature = operator.attrgetter("shape", "dtype")

    target_signature = signature
    target_spec = spec

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function that copies buffers: MLX cannot compute on others' memory."""

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            return [copy_from(x) if _is_foreign_array(x) else x for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from outputs to capsules, which evaluates all at once."""
        return functools.partial(_release, set())

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Execute `op` on copies of the operands, and copy its outputs to the results."""
        if stream is not None:
            raise DeviceError(f"{op.name} is an MLX function, which computes on the host.")
        on_python_thread(lambda: self._execute_into(op, operands, results))

    def _execute_into(self, op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
        xs = [copy_from(x) for x in operands]
        with compute_stream():
            outputs = op.traits.call_into(results, xs) if op.traits.call_into else op.call(*xs)
            evaluate(outputs)
        copy_outputs([*map(host_view, outputs)], results, op.name)

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from arrays to NumPy views, which evaluates all at once."""

        def lend(xs: Sequence[Any]) -> Sequence[Any]:
            evaluate([x for x in xs if isinstance(x, mx.array)])
            return [contiguous_view(x) if isinstance(x, mx.array) else x for x in xs]

        return lend

    def export_detached(self, x: mx.array) -> np.ndarray:
        """Return a NumPy view of `x`, also within `mx.grad`."""
        evaluate([x])
        return contiguous_view(x)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Return the function that copies arrays out of capsules."""

        def adopt(buffers: Sequence[Any]) -> Arrays:
            renew_after_fork()
            return tuple(map(from_capsule, buffers))

        return adopt

    def supports_dtype(self, dtype: str) -> bool:
        """Return True if MLX has a dtype of this name."""
        return dtype in DTYPES

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Say why there are no results of this dtype, and what to write instead."""
        advice = replacement_advice(dtype)
        return f"which MLX does not support. Convert it in the function, to {advice}."

    def check_dtype(self, dtype: str) -> None:
        """Raise if MLX does not support this dtype."""
        dtype_of(dtype)

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Raise: MLX has no arrays without values."""
        raise NoValuesError(
            f"an array of {specs[0]} has no values yet, and MLX has no arrays without values. "
            "Initialize the module first."
        )

    def export(
        self, x: Any, *, dense: bool, copy: bool | None, gathered: bool = True
    ) -> np.ndarray:
        """Return a NumPy view of `x`, or a copy if others do not support its strides."""
        evaluate([x])
        self.copy_or_raise(x)
        view = host_view(x)
        if has_shareable_strides(view) and (view.flags.forc or not dense):
            return view
        if copy is False:
            raise CopyError("copy=False, but it has strides that cannot be shared.")
        return contiguous_copy(view)

    def copy_or_raise(self, x: mx.array) -> mx.array:
        """Return a copy of `x`, or raise if its gradient would be lost."""
        if is_traced(x):
            raise ArgumentError(
                "an array inside of mx.grad or another transformation would lose its gradient, "
                "since values cross without it. Wrap the function that takes it, with torch2mlx "
                "or jax2mlx, or pass np.array(x), which is a constant."
            )
        return x[...]  # a new array, which later writes to `x` do not change

    def convert(self, x: Any, *, copy: bool | None) -> mx.array:
        """Return a copy of `x`: MLX cannot share memory."""
        renew_after_fork()  # the caller may compute with the array before anything is evaluated
        copied = copy_from(x)
        if copy is False:
            raise CopyError("copy=False, but MLX copies whatever it takes from others.")
        return copied

    def make_array(self, x: Any) -> mx.array:
        """Make an array of a Python number or of an array of NumPy."""
        return copy_from(x) if isinstance(x, np.ndarray) else mx.array(x)

    def pytree_node_functions(self, x: Any) -> PytreeNodeFunctions | None:
        """Return how to flatten an `mlx.nn.Module` of MLX, a dictionary of its parameters."""
        is_node = is_module(x) and not isinstance(x, ModuleView)
        return (_flatten_module, _unflatten_module) if is_node else None


def is_module(x: Any) -> bool:
    """Return True if `x` is an `mlx.nn.Module`; a program without any need not load them."""
    nn = sys.modules.get("mlx.nn")
    return nn is not None and isinstance(x, nn.Module)


@dataclasses.dataclass(frozen=True)
class _Module:
    """The parts of a module that are not children: its class, their names, its attributes."""

    module_class: Any
    names: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]


def _flatten_module(module: Any) -> tuple[tuple[Any, ...], _Module, tuple[str, ...]]:
    names = tuple(module)
    attributes = tuple((name, _as_hashable(value)) for name, value in sorted(vars(module).items()))
    return tuple(module.values()), _Module(type(module), names, attributes), names


def _as_hashable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, set) else value


def _unflatten_module(structure: _Module, children: Iterable[Any]) -> Any:
    module = structure.module_class.__new__(structure.module_class)
    dict.update(module, zip(structure.names, children, strict=True))
    for name, value in structure.attributes:
        vars(module)[name] = set(value) if isinstance(value, frozenset) else value
    return module


def _is_foreign_array(x: Any) -> bool:
    """Return True if `x` is an array of a framework other than MLX."""
    return not isinstance(x, mx.array) and hasattr(x, "__dlpack__")


def _release(gapped_shapes: set[tuple[int, ...]], outputs: Sequence[Any]) -> Sequence[Any]:
    """Return capsules of `outputs`; note shapes that had gaps: NOTE [memory of their own]."""
    arrays = [y for y in outputs if not isinstance(y, Handle)]
    if gapped_shapes:
        arrays = _make_contiguous(arrays, [y.shape in gapped_shapes for y in arrays])
    evaluate(arrays)
    gaps = [not is_contiguous(y) for y in arrays]
    if True in gaps:
        gapped_shapes |= {y.shape for y, has_gaps in zip(arrays, gaps, strict=True) if has_gaps}
        arrays = _make_contiguous(arrays, gaps)
        evaluate(arrays)
    capsules = iter([dlpack_capsule(y) for y in arrays])
    return [y.capsule() if isinstance(y, Handle) else next(capsules) for y in outputs]


def _make_contiguous(xs: Sequence[mx.array], mask: Sequence[bool]) -> list[mx.array]:
    with compute_stream(has_float64=mx.float64 in [x.dtype for x in xs]):
        return [mx.contiguous(x) if chosen else x for x, chosen in zip(xs, mask, strict=True)]


def copy_as_constants(xs: Sequence[mx.array]) -> list[mx.array]:
    """Copy the values of `xs` into arrays that depend on nothing."""
    evaluate(xs)
    return [copy_from(host_view(x)) for x in xs]


ARRAYS = MlxArrays()
