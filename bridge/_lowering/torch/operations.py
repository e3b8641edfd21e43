"""The easy operations in torch."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS, in_dispatch_mode
from bridge._arrays.torch.upstream.graphs import assert_async
from bridge._core.errors import RangeError
from bridge._core.spec import ArraySpec
from bridge._lowering.operations import Shape
from bridge._lowering.torch import loops
from bridge._lowering.torch.bits import RULES as BIT_RULES
from bridge._lowering.torch.carriers import CARRIERS, carried, dtype_of
from bridge._lowering.torch.elements import NATIVE
from bridge._lowering.torch.linalg import RULES as LINALG_RULES
from bridge._lowering.torch.sums import accumulate, find_argument, reduce, scatter

# Words whose second operand may be a Python number, which torch takes in the dtype of the first.
_TAKES_NUMBERS = frozenset(["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"])
_EXACT_NUMBERS = frozenset(["int32", "int64", "float32", "float64"])


class TorchOperations:
    """The easy operations, on tensors."""

    native: ClassVar[dict[str, Any]] = NATIVE
    rules: ClassVar[dict[str, Any]] = {**LINALG_RULES, **BIT_RULES}
    scan = staticmethod(loops.scan)
    loop = staticmethod(loops.loop)
    branch = staticmethod(loops.branch)
    reduce = staticmethod(reduce)
    argument = staticmethod(find_argument)
    cumulative = staticmethod(accumulate)
    scatter = staticmethod(scatter)

    def supports_dtype(self, dtype: str) -> bool:
        """Return True for the dtypes that torch computes with, or that are carried in these."""
        return dtype in CARRIERS

    def is_recording(self) -> bool:
        """Return True while a mode of torch sees operators, as those that record graphs do."""
        return in_dispatch_mode()

    def device(self, x: torch.Tensor) -> str:
        """Return the name of the device of `x`."""
        return str(x.device)

    def carrier(self, dtype: str) -> str:
        """Return a wider signed dtype for unsigned integers, which torch hardly computes with."""
        return CARRIERS[dtype]

    def scalar(self, constant: Any, word: str, dtype: str) -> Any | None:
        """Return a number that is exact in the dtype of the other operand."""
        fits = constant.ndim == 0 and constant.dtype.name == dtype and dtype in _EXACT_NUMBERS
        if word == "div" and constant.dtype.kind != "f":
            return None  # integers are divided by several operators
        return constant.item() if fits and word in _TAKES_NUMBERS else None

    def embed(self, constant: Any, like: torch.Tensor) -> torch.Tensor:
        """Return a constant as a tensor; an array in a graph that is being recorded, as its own."""
        if constant.ndim == 0 and constant.dtype.name in _EXACT_NUMBERS:
            return torch.full((), constant.item(), dtype=_dtype(constant), device=like.device)
        tensor = ARRAYS.convert(constant.copy(), copy=None)
        if self.is_recording():  # as `torch.tensor` records what it is given
            tensor = torch.ops.aten.lift_fresh_copy.default(tensor)
        return carried(tensor.to(like.device), constant.dtype.name)

    def anchor(self, device: str) -> torch.Tensor:
        """Return a tensor on a device."""
        return torch.empty((), device=device)

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` in memory of its own."""
        return x.clone(memory_format=torch.contiguous_format)

    def arange(self, size: int, dtype: str, like: torch.Tensor) -> torch.Tensor:
        """Return 0, 1, ..., on the device of `like`."""
        target = dtype_of(dtype)
        if target.is_complex or target is torch.bool or target.itemsize < 4:
            return torch.arange(size, device=like.device).to(target)
        return torch.arange(size, dtype=target, device=like.device)

    def full(self, shape: Shape, value: Any, dtype: str, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor of equal elements on the device of `like`."""
        if dtype == "uint64" and value > 2**63 - 1:
            value -= 2**64
        return torch.full(tuple(shape), value, dtype=dtype_of(dtype), device=like.device)

    def shape(self, x: torch.Tensor) -> tuple[int, ...]:
        """Return the shape of `x`."""
        return tuple(x.shape)

    def reshape(self, x: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Return `x` in another shape."""
        return x.reshape(tuple(shape))

    def permute(self, x: torch.Tensor, permutation: Shape) -> torch.Tensor:
        """Return `x` with its axes in another order."""
        if tuple(permutation) == tuple(range(x.dim())):
            return x
        return x.permute(tuple(permutation))

    def broadcast(self, x: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Return `x` repeated along its axes of size 1."""
        return x.expand(tuple(shape))

    def concatenate(self, xs: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        """Return tensors one after the other."""
        return torch.cat(list(xs), axis)

    def slice(self, x: torch.Tensor, starts: Shape, limits: Shape, strides: Shape) -> torch.Tensor:
        """Return a part of `x`."""
        for axis, (start, limit, stride) in enumerate(zip(starts, limits, strides, strict=True)):
            if start or limit != x.shape[axis] or stride != 1:
                x = torch.ops.aten.slice.Tensor(x, axis, start, limit, stride)
        return x

    def flip(self, x: torch.Tensor, axes: Shape) -> torch.Tensor:
        """Return `x` with axes reversed."""
        return x.flip(tuple(axes))

    def pad(self, x: torch.Tensor, value: torch.Tensor, low: Shape, high: Shape) -> torch.Tensor:
        """Return `x` with `value` around it."""
        for axis, (before, after) in enumerate(zip(low, high, strict=True)):
            edges = [
                value.expand(*x.shape[:axis], size, *x.shape[axis + 1 :]) if size else None
                for size in (before, after)
            ]
            parts = [part for part in (edges[0], x, edges[1]) if part is not None]
            x = torch.cat(parts, axis) if len(parts) > 1 else x
        return x

    def where(self, condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `x` where the condition is true, elsewhere `y`."""
        return torch.where(condition, x, y)

    def cast(self, x: torch.Tensor, dtype: str) -> torch.Tensor:
        """Return `x` in another dtype."""
        return x.to(dtype_of(dtype))

    def bits(self, x: torch.Tensor, dtype: str) -> torch.Tensor:
        """Return the bits of `x` as integers of the same width."""
        return x.view(dtype_of(dtype))

    def clip(self, x: torch.Tensor, low: int, high: int) -> torch.Tensor:
        """Return integers, the nearest between two bounds."""
        return torch.clamp(x, low, high)

    def take(self, x: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
        """Return entries along an axis, at a vector of indices."""
        return torch.index_select(x, axis, indices)

    def take_along(self, x: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
        """Return for each place the entry at its index along an axis."""
        return torch.gather(x, axis, indices) if x.dim() else x

    def argsort(self, x: torch.Tensor, axis: int, *, descending: bool) -> torch.Tensor:
        """Return the indices that sort `x`, NaN last, or first if descending."""
        keys = x.to(torch.uint8) if x.dtype is torch.bool else x
        return torch.sort(keys, dim=axis, descending=descending, stable=True)[1]

    def matmul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the products of matrices."""
        return torch.matmul(x, y)

    def windows(
        self, x: torch.Tensor, sizes: Shape, strides: Shape, dilation: Shape
    ) -> torch.Tensor:
        """Return all windows of `x`, an axis for each after those of the windows."""
        for axis, (size, stride, step) in enumerate(zip(sizes, strides, dilation, strict=True)):
            x = x.unfold(axis, (size - 1) * step + 1, stride)
            x = x[..., ::step] if step != 1 else x
        return x

    def convolve(
        self, x: torch.Tensor, w: torch.Tensor, strides: Shape, dilation: Shape, groups: int
    ) -> torch.Tensor:
        """Return the convolution, without padding."""
        zeros = [0] * len(strides)
        return torch.convolution(
            x,
            w,
            None,
            list(strides),
            zeros,
            list(dilation),
            False,  # noqa: FBT003, not transposed
            zeros,
            groups,
        )

    def narrow(self, x: torch.Tensor, spec: ArraySpec, label: str) -> torch.Tensor:
        """Return 64-bit integers in 32 bits; in a graph, code that raises if they do not fit."""
        low, high = (0, 2**32 - 1) if spec.dtype == "uint32" else (-(2**31), 2**31 - 1)
        fits = torch.logical_and(x >= low, x <= high).all()
        reason = f"{label} has values that do not fit into {spec.dtype}. Pass x64=True for 64 bits."
        if self.is_recording():
            assert_async(fits, reason)
        elif x.device.type != "meta" and not fits.item():
            raise RangeError(reason)
        return x.to(dtype_of(spec.dtype))


def _dtype(constant: Any) -> torch.dtype:
    return dtype_of(constant.dtype.name)


OPERATIONS = TorchOperations()
