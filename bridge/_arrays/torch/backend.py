"""The array backend of PyTorch: NumPy views on the host, DLPack on other devices."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bridge._arrays.numpy import HostCapsule, as_dlpack_dtype
from bridge._arrays.torch import addresses
from bridge._arrays.torch.derivatives import check_no_derivative
from bridge._arrays.torch.dtypes import AS_INTEGERS, PLAIN, PLAIN_NUMPY, dtype_name
from bridge._arrays.torch.execute import execute_into, tensor_from_buffer
from bridge._arrays.torch.sharding import SHARDS, is_dtensor
from bridge._arrays.torch.upstream.isolation import suspend_transforms, without_derivatives
from bridge._arrays.torch.upstream.memory import PLAIN_KEYS, dispatch_keys, from_dlpack
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._arrays.torch.upstream.shards import wait_for_collective
from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import ArgumentError, CopyError, NoValuesError
from bridge._core.op import Arrays, Op, Specs
from bridge._core.pytree import PytreeNodeFunctions
from bridge._core.spec import ArraySpec, dtype_advice


class TorchArrays:
    """PyTorch's tensors."""

    name = "torch"
    scalar_types = ()
    rounding_advice = ""
    imports_only_contiguous = False
    compute_context = staticmethod(suspend_transforms)
    unwrap_key = wrap_key = None
    shards = SHARDS
    adopting_copy_reason = ""
    address = staticmethod(addresses.address)
    example = staticmethod(addresses.example)
    lending_copy_reason = staticmethod(addresses.lending_copy_reason)
    borrowing_copy_reason = staticmethod(addresses.borrowing_copy_reason)

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is a tensor, also if it is a Parameter or of another subclass."""
        return isinstance(x, torch.Tensor)

    def spec(self, x: torch.Tensor) -> ArraySpec:
        """Return shape, dtype and device of a dense tensor; raise for other kinds."""
        if is_dtensor(x):
            raise ArgumentError(
                f"it is a {type(x).__name__}, spread over several processes. Pass `.to_local()`."
            )
        if x.is_nested:
            raise ArgumentError("it is a nested tensor. Pass `.to_padded_tensor(padding)`.")
        if x.layout is not torch.strided:
            raise ArgumentError(f"it is sparse ({x.layout}). Pass `.to_dense()`.")
        if x.dtype not in PLAIN and x.dtype not in AS_INTEGERS:
            raise ArgumentError(f"its dtype {x.dtype} has no counterpart. Convert it first.")
        return ArraySpec(tuple(x.shape), dtype_name(x.dtype), str(x.device))

    # A method would cost twice as much. A nested tensor has no shape: RuntimeError.
    signature = operator.attrgetter("shape", "dtype", "device", "layout")

    target_signature = signature
    target_spec = spec

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function to NumPy views for the host, to dense tensors for other devices."""
        return _numpy_views if device == "cpu" else functools.partial(_contiguous_on, device=device)

    def export_detached(self, x: torch.Tensor) -> Any:
        """Return a NumPy array of `x`, also within transformations that take derivatives."""
        with suspend_transforms():
            return self.export(without_derivatives(x), dense=True, copy=None).numpy(force=True)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Return the function from buffers to tensors over their memory, moved to `device`."""
        return _adopt if device == "cpu" else functools.partial(_adopt_on, device=device)

    def supports_dtype(self, dtype: str) -> bool:
        """Return True if torch has a dtype of this name."""
        return getattr(torch, dtype, None) in {*PLAIN, *AS_INTEGERS}

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Say why there are no results of this dtype, and what to write instead."""
        advice = dtype_advice(dtype)
        return f"which torch does not support. Convert it in the function, to {advice}."

    def check_dtype(self, dtype: str) -> None:
        """Raise if torch does not support this dtype."""
        if not self.supports_dtype(dtype):
            raise ArgumentError(f"torch has no dtype {dtype}. Convert it to {dtype_advice(dtype)}.")

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Make meta tensors."""
        return tuple(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
            for spec in specs
        )

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from buffers to tensors over their memory; copied if read-only."""

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            return [_borrow(x, device) if hasattr(x, "__dlpack__") else x for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from outputs to dense tensors on `device`; capsules on the host."""

        def release(outputs: Sequence[Any]) -> Sequence[Any]:
            dense = _contiguous_on(outputs, device=device)
            # `__dlpack__` first checks gradients and streams, which takes 3 us.
            return [torch.to_dlpack(y) for y in dense] if device == "cpu" else dense

        return release

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Execute `op` on its operands, and write its outputs to the results."""
        if stream is None:
            execute_into(op, operands, results)
            return
        index, address = stream
        queue = torch.cuda.ExternalStream(address, device=index)
        with torch.cuda.device(index), torch.cuda.stream(queue):
            execute_into(op, operands, results)

    def export(
        self, x: torch.Tensor, *, dense: bool, copy: bool | None, gathered: bool = True
    ) -> torch.Tensor:
        """Return `x` with its values in memory; raise if it requires grad, as `.numpy()` does."""
        check_no_derivative(x)
        if is_dtensor(x):
            if not gathered:
                return x
            raise ArgumentError(
                f"it is a {type(x).__name__}, spread over several processes. Pass "
                "`.full_tensor()`, which gathers it, or `.to_local()`. `to_jax` alone takes the "
                "shard of each process, with mesh=."
            )
        self.spec(x)
        x = wait_for_collective(x)
        if not _has_memory(x):
            raise NoValuesError(
                f"a {x.device.type} tensor without memory has no values to convert. Under "
                "torch.func.vmap and other transformations, wrap the function that takes it."
            )
        y = _materialize(x)
        if dense and not _is_non_overlapping_and_dense(y):
            y = y.contiguous()
        if copy is False and y is not x:
            raise CopyError(
                "copy=False, but it has strides, or a lazy conjugation, negation or zeros, that "
                "cannot be shared."
            )
        return y

    def copy_or_raise(self, x: torch.Tensor) -> torch.Tensor:
        """Return a copy of `x`, which may change before a derivative; raise as `export` does."""
        return self.export(x, dense=True, copy=None).clone(memory_format=torch.contiguous_format)

    def convert(self, x: Any, *, copy: bool | None) -> torch.Tensor:
        """Make a tensor over the memory of `x`, which must be writable, or a copy of it."""
        if is_dtensor(x):
            return x.clone()
        if x.dtype not in PLAIN_NUMPY and not self.supports_dtype(dtype_name(x.dtype)):
            raise ArgumentError(f"torch has no dtype {dtype_name(x.dtype)}.")
        if isinstance(x, np.ndarray):
            buffer, low = as_dlpack_dtype(x)
            y = torch.from_dlpack(buffer, copy=copy)
            return y.view(getattr(torch, low)) if low else y
        # Without the option torch asks the producer in half the time.
        return torch.from_dlpack(x) if copy is None else torch.from_dlpack(x, copy=copy)

    def pytree_node_functions(self, x: Any) -> PytreeNodeFunctions | None:
        """Return how to flatten a class registered with `torch.utils._pytree`, if it is one."""
        if pytree.tree_structure(x, is_leaf=lambda child: child is not x).is_leaf():
            return None

        def flatten(node: Any) -> tuple[list[Any], Any]:
            return pytree.tree_flatten(node, is_leaf=lambda child: child is not node)

        def unflatten(structure: Any, children: Any) -> Any:
            return pytree.tree_unflatten(children, structure)

        return flatten, unflatten


def _as_writable(x: Any) -> Any:
    """Return `x`, or a copy if it is read-only, since torch could write to it."""
    return x.copy() if isinstance(x, np.ndarray) and not x.flags.writeable else x


def _borrow(x: Any, device: str) -> torch.Tensor:
    return (x if isinstance(x, torch.Tensor) else tensor_from_buffer(_as_writable(x))).to(device)


def _has_memory(x: torch.Tensor) -> bool:
    try:  # a FakeTensor claims to be on the host, at address 0
        if x.untyped_storage().device.type == "meta":
            return False
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def _is_non_overlapping_and_dense(x: torch.Tensor) -> bool:
    """Return True if `x` is contiguous for some order of its axes."""
    order = sorted(range(x.dim()), key=lambda axis: -x.stride(axis))
    return x.permute(order).is_contiguous()


def _numpy_views(xs: Sequence[Any]) -> Sequence[Any]:
    views: list[Any] = []
    try:
        for x in xs:
            if not isinstance(x, torch.Tensor):
                views.append(x)
            elif dispatch_keys(x).raw_repr() not in PLAIN_KEYS or x.dtype in AS_INTEGERS:
                views.append(_numpy_by_dispatcher(x))
            else:
                # Tensor.numpy() makes the storage not resizable, but FSDP resizes it to free it.
                views.append(np.from_dlpack(HostCapsule(torch.to_dlpack(x))))
    except RuntimeError as error:  # a FakeTensor, or another subclass without storage
        raise NoValuesError(f"a tensor has no memory that can be read: {error}") from error
    return views


def _numpy_by_dispatcher(x: torch.Tensor) -> Any:
    x = wait_for_collective(x)
    if x.dtype in PLAIN:
        return x.numpy(force=True)
    integer, dtype = AS_INTEGERS[x.dtype]
    return _numpy_views([x.detach().view(integer)])[0].view(dtype)


def _contiguous_on(xs: Sequence[Any], *, device: str) -> Sequence[Any]:
    return [_contiguous(x, device) if isinstance(x, torch.Tensor) else x for x in xs]


def _contiguous(x: torch.Tensor, device: str) -> torch.Tensor:
    return _materialize(wait_for_collective(x.detach())).contiguous().to(device)


def _materialize(x: torch.Tensor) -> torch.Tensor:
    """Write the lazy values of `x` to memory: conjugations, negations and zeros."""
    y = x.resolve_conj().resolve_neg()
    return y if y.data_ptr() or not y.numel() else y.clone()


def _adopt(buffers: Sequence[Any]) -> Arrays:
    return (*map(from_dlpack, buffers),)


def _adopt_on(buffers: Sequence[Any], *, device: str) -> Arrays:
    # Given an object rather than a capsule, torch passes its current stream to the producer.
    return tuple(torch.from_dlpack(y).to(device) for y in buffers)


ARRAYS = TorchArrays()
