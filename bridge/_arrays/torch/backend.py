"""Tensors of PyTorch: their buffers, on the host as NumPy views, elsewhere by DLPack."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch.autograd import forward_ad
from torch.utils.dlpack import from_dlpack

from bridge._arrays.numpy import HostCapsule, as_dlpack_dtype
from bridge._arrays.torch.dtypes import AS_INTEGERS, PLAIN, dtype_name
from bridge._arrays.torch.execute import execute_into, tensor_from_buffer
from bridge._arrays.torch.isolation import suspend_transforms, without_derivatives
from bridge._core.array_protocols import DeviceStream, PytreeNode
from bridge._core.errors import ArgumentError, CopyError, NoValuesError
from bridge._core.op import Arrays, Op, Specs
from bridge._core.spec import ArraySpec, dtype_advice


class TorchArrays:
    """PyTorch's tensors."""

    name = "torch"
    requires_contiguous = False
    compute_context = staticmethod(suspend_transforms)
    unwrap_key = wrap_key = None

    def is_array(self, x: Any) -> bool:
        """Whether `x` is a tensor, a Parameter or of a subclass."""
        return isinstance(x, torch.Tensor)

    def spec(self, x: torch.Tensor) -> ArraySpec:
        """Shape, dtype and device of a dense tensor; others are refused."""
        if hasattr(x, "to_local"):  # DTensor, known by the method we advise
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

    # Not a method, which would cost as much again. A nested tensor has no shape: RuntimeError.
    signature = operator.attrgetter("shape", "dtype", "device", "layout")

    target_signature = signature
    target_spec = spec

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """NumPy views for the host, detached dense tensors for other devices."""
        return _numpy_views if device == "cpu" else functools.partial(_contiguous_on, device=device)

    def read_values(self, x: torch.Tensor) -> Any:
        """A NumPy array of what `x` wraps in transformations that take derivatives."""
        with suspend_transforms():
            return self.export(without_derivatives(x), dense=True, copy=None).numpy(force=True)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Tensors over the memory of buffers, moved to `device` if that is another."""
        return _adopt if device == "cpu" else functools.partial(_adopt_from, device=device)

    def supports_dtype(self, dtype: str) -> bool:
        """Whether torch has a dtype of this name."""
        return getattr(torch, dtype, None) in {*PLAIN, *AS_INTEGERS}

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Why results of this dtype cannot be had, and what to write instead."""
        advice = dtype_advice(dtype)
        return f"which torch has no counterpart of. Convert it in the function, to {advice}."

    def check_dtype(self, dtype: str) -> None:
        """Raise for a dtype that torch lacks."""
        if not self.supports_dtype(dtype):
            raise ArgumentError(f"torch has no dtype {dtype}. Convert it to {dtype_advice(dtype)}.")

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Meta tensors."""
        return tuple(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta")
            for spec in specs
        )

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Tensors over the memory of `buffers`, copies of NumPy arrays that are read-only."""

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            return [_borrow(x, device) if hasattr(x, "__dlpack__") else x for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Dense tensors on `device`; on the host capsules of them."""

        def release(outputs: Sequence[Any]) -> Sequence[Any]:
            dense = _contiguous_on(outputs, device=device)
            # As `__dlpack__`, which asks 3 us long for gradients and streams that are not here.
            return [torch.to_dlpack(y) for y in dense] if device == "cpu" else dense

        return release

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Evaluate `op`, and copy its outputs to where they belong."""
        if stream is None:
            execute_into(op, operands, results)
            return
        index, address = stream
        queue = torch.cuda.ExternalStream(address, device=index)
        with torch.cuda.device(index), torch.cuda.stream(queue):
            execute_into(op, operands, results)

    def export(
        self, x: torch.Tensor, *, dense: bool, copy: bool | None, whole: bool = True
    ) -> torch.Tensor:
        """`x` as its memory should say; one that requires grad is refused, as by `.numpy()`."""
        if x.requires_grad:
            raise ArgumentError(
                "a tensor that requires grad would lose its gradient, since values cross "
                "without it. Pass `.detach()`, or wrap the function that takes it."
            )
        self.spec(x)
        if forward_ad.unpack_dual(x).tangent is not None:
            raise ArgumentError("a dual tensor would lose its tangent, since only values cross.")
        if not _has_memory(x):
            raise NoValuesError(
                f"a {x.device.type} tensor without memory has no values to convert. Under "
                "torch.func.vmap and other transformations, wrap the function that takes it."
            )
        y = _materialized(x)
        if dense and not _is_contiguous(y):
            y = y.contiguous()
        if copy is False and y is not x:
            raise CopyError(
                "copy=False, but its strides, or a conjugation, negation or zeros that torch has "
                "put off, cannot be shared."
            )
        return y

    def check_not_traced(self, x: torch.Tensor) -> torch.Tensor:
        """A copy of `x`, which may change before a derivative is taken; refused as by `export`."""
        return self.export(x, dense=True, copy=None).clone(memory_format=torch.contiguous_format)

    def convert(self, x: Any, *, copy: bool | None) -> torch.Tensor:
        """A tensor over the memory of `x`, writable, or a copy of it."""
        name = dtype_name(x.dtype)
        if not self.supports_dtype(name):
            raise ArgumentError(f"torch has no dtype {name}.")
        if isinstance(x, np.ndarray):
            buffer, low = as_dlpack_dtype(x)
            y = torch.from_dlpack(buffer, copy=copy)
            return y.view(getattr(torch, low)) if low else y
        return torch.from_dlpack(x, copy=copy)

    def pytree_node(self, x: Any) -> PytreeNode | None:
        """A class registered with `torch.utils._pytree`, as Hugging Face's outputs are."""
        if pytree.tree_structure(x, is_leaf=lambda child: child is not x).is_leaf():
            return None

        def take(node: Any) -> tuple[list[Any], Any]:
            return pytree.tree_flatten(node, is_leaf=lambda child: child is not node)

        def build(structure: Any, children: Any) -> Any:
            return pytree.tree_unflatten(children, structure)

        return take, build


def _as_writable(x: Any) -> Any:
    """`x`, or a copy where torch could write to what its owner keeps others from writing to."""
    return x.copy() if isinstance(x, np.ndarray) and not x.flags.writeable else x


def _borrow(x: Any, device: str) -> torch.Tensor:
    return (x if isinstance(x, torch.Tensor) else tensor_from_buffer(_as_writable(x))).to(device)


def _has_memory(x: torch.Tensor) -> bool:
    try:  # a FakeTensor says that it is on the host, and has an address there, which is 0
        if x.untyped_storage().device.type == "meta":
            return False
        x.data_ptr()
    except RuntimeError:
        return False
    return True


def _is_contiguous(x: torch.Tensor) -> bool:
    """Whether `x` fills its memory, with its axes in whatever order."""
    order = sorted(range(x.dim()), key=lambda axis: -x.stride(axis))
    return x.permute(order).is_contiguous()


def _numpy_views(xs: Sequence[Any]) -> Sequence[Any]:
    try:
        return [_numpy_view(x) if isinstance(x, torch.Tensor) else x for x in xs]
    except RuntimeError as error:  # a FakeTensor, or another subclass without storage
        raise NoValuesError(f"a tensor has no memory that can be read: {error}") from error


def _numpy_view(x: torch.Tensor) -> Any:
    if _is_elsewhere(x):
        return _numpy_by_dispatcher(x)
    # Tensor.numpy() forbids forever to resize the memory, by which FSDP frees parameters.
    try:
        return np.from_dlpack(HostCapsule(torch.to_dlpack(x)))
    except (RuntimeError, BufferError):  # a dtype that NumPy lacks
        return _numpy_by_dispatcher(x)


def _numpy_by_dispatcher(x: torch.Tensor) -> Any:
    if x.dtype in PLAIN:
        return x.numpy(force=True)
    integer, dtype = AS_INTEGERS[x.dtype]
    return _numpy_view(x.detach().view(integer)).view(dtype)


def _is_elsewhere(x: torch.Tensor) -> bool:
    """Whether the values of `x` may be other than what its memory holds, to which DLPack is blind.

    They are for a conjugation, negation or zeros that torch has put off, for subclasses and for
    other devices, and all of these are dispatched in ways of their own.
    """
    return _keys is None or _keys(x).raw_repr() not in _PLAIN_TYPES


_keys: Callable[[torch.Tensor], Any] | None = getattr(torch._C, "_dispatch_keys", None)  # pyright: ignore[reportPrivateUsage]


def _plain_types() -> set[int]:
    """How tensors on the host are dispatched, in inference mode and out of it."""
    if _keys is None:
        return set()
    with torch.device("cpu"):
        found = {_keys(torch.empty(0)).raw_repr()}
        with torch.inference_mode():
            return found | {_keys(torch.empty(0)).raw_repr()}


_PLAIN_TYPES = _plain_types()


def _contiguous_on(xs: Sequence[Any], *, device: str) -> Sequence[Any]:
    return [_contiguous(x, device) if isinstance(x, torch.Tensor) else x for x in xs]


def _contiguous(x: torch.Tensor, device: str) -> torch.Tensor:
    return _materialized(x.detach()).contiguous().to(device)


def _materialized(x: torch.Tensor) -> torch.Tensor:
    """`x` with what torch has put off: a conjugation, a negation, zeros that have no memory."""
    y = x.resolve_conj().resolve_neg()
    return y if y.data_ptr() or not y.numel() else y.clone()


# What the public function does after some questions about its argument, in half the time.
_take: Callable[[Any], torch.Tensor] = getattr(torch._C, "_from_dlpack", from_dlpack)  # pyright: ignore[reportPrivateUsage]


def _adopt(buffers: Sequence[Any]) -> Arrays:
    return tuple([_take(y) for y in buffers])


def _adopt_from(buffers: Sequence[Any], *, device: str) -> Arrays:
    # Given an object, no capsule, torch passes its current stream to the producer.
    return tuple(torch.from_dlpack(y).to(device) for y in buffers)


ARRAYS = TorchArrays()
