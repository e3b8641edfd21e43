"""The arrays of a framework, as the rest of the package sees them."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge._core.op import Arrays, Op, Specs
from bridge._core.pytree import PytreeNodeFunctions
from bridge._core.sharding import ProcessMesh, ShardLayout
from bridge._core.spec import ArraySpec

# The number of a device and the address of the stream on which its work is queued.
DeviceStream = tuple[int, int]


class ShardedArrays(Protocol):
    """Arrays that are split over a mesh of processes, each of which holds one shard."""

    def describe_mesh(self, mesh: Any) -> ProcessMesh:
        """Return what a mesh of this framework is; raise if `mesh` is none."""
        ...

    def split(self, x: Any) -> tuple[Any, ShardLayout] | None:
        """Return the shard of this process and the layout of `x`; None if `x` is not split.

        Raises `ArgumentError` if it is split in a way that only this framework has.
        """
        ...

    def join(self, shard: Any, layout: ShardLayout, mesh: Any, *, copy: bool | None) -> Any:
        """Make the array on `mesh` of which `shard` is the part of this process.

        Nothing is sent to others. `copy` is that of `convert`, which made the shard.
        """
        ...


class ArrayBackend(Protocol):
    """The arrays of a framework: recognise, describe, export and import them."""

    name: str
    # True if arrays can only be made over memory without gaps or reversed axes.
    imports_only_contiguous: bool
    shards: ShardedArrays

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an array of this framework."""
        ...

    def spec(self, x: Any) -> ArraySpec:
        """Return shape, dtype and device of `x` without waiting for its values.

        Raises `ArgumentError` if `x` cannot cross.
        """
        ...

    def signature(self, x: Any) -> Hashable:
        """Return a cheap key that determines `spec`; it is computed on every call."""
        ...

    @property
    def copy_or_raise(self) -> Callable[[Any], Any] | None:
        """The function that copies an array, or raises if its gradient would be lost; or None."""
        ...

    def export(self, x: Any, *, dense: bool, copy: bool | None, gathered: bool = True) -> Any:
        """Return the value of `x` for another framework, over the memory of `x` if possible.

        If it has to be `gathered`, raises where it is spread over several devices.
        """
        ...

    def convert(self, x: Any, *, copy: bool | None) -> Any:
        """Make an array of what `export` returned; `copy` as in the array API standard."""
        ...

    def pytree_node_functions(self, x: Any) -> PytreeNodeFunctions | None:
        """Return how to flatten and rebuild `x`, if it is a node of this framework's pytrees."""
        ...

    def address(self, x: Any) -> int | None:
        """Return where the values of an array, or of what functions get for it, begin in memory.

        None if it has no values, or is on several devices.
        """
        ...

    def example(self, spec: ArraySpec) -> Any:
        """Make zeros of this spec, in memory of their own."""
        ...


class SourceArrays(ArrayBackend, Protocol):
    """Arrays that a source function computes with, over memory of its caller."""

    # The context in which Ops are called and outputs released; None if they need none.
    compute_context: Callable[[], AbstractContextManager[None]] | None
    # From a result that other frameworks have no dtype for, such as a PRNG key, to an array and
    # its kind, or None; and from its values and kind back. None if there are no such results.
    unwrap_key: Callable[[Any], tuple[Any, str] | None] | None
    wrap_key: Callable[[Any, str], Any] | None
    # Classes of scalars that a function may return as it may return Python numbers.
    scalar_types: tuple[type, ...]
    # What an error says about a result whose dtype the caller lacks, besides the caller's advice.
    rounding_advice: str

    def check_dtype(self, dtype: str) -> None:
        """Raise if arguments of this dtype are not supported."""
        ...

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from buffers to arrays on `device` over the same memory."""
        ...

    def borrowing_copy_reason(self, buffer: Any) -> str:
        """Say why arrays over this buffer are copies of it, `""` if they share its memory."""
        ...

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from outputs on `device` to buffers that others can own.

        They are DLPack capsules of host memory, or arrays on another device.
        """
        ...

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Execute `op` on the memory of `operands`, and write its outputs to that of `results`.

        Both are NumPy arrays or, with a `stream`, objects with `__dlpack__`; the work is queued on
        the stream. Raises unless the outputs have the number, shapes and dtypes of the results.
        64-bit integers may be written as 32 bits, after waiting for them: NOTE [narrow integers].
        Only callers whose compiler allocates results use this. JAX does, so JAX as a source has no
        need of it.
        """
        ...


class TargetArrays(ArrayBackend, Protocol):
    """Arrays that bridged functions are called with."""

    # Why the values of results are copied once more, where they are.
    adopting_copy_reason: str

    def target_signature(self, x: Any) -> Hashable:
        """Return a cheap key that determines `target_spec`; `x` may be traced."""
        ...

    def target_spec(self, x: Any) -> ArraySpec:
        """Return shape, dtype and device of `x` as a function of another framework sees them."""
        ...

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from arrays to buffers on `device`, valid until outputs are ready.

        A buffer is a NumPy array or has `__dlpack__`. What is no array of ours is passed on.
        """
        ...

    def lending_copy_reason(self, x: Any) -> str:
        """Say why buffers of `x` are copies, `""` if they share its memory."""
        ...

    def export_detached(self, x: Any) -> Any:
        """Return a buffer with the values of a result that has no derivative, if it has values."""
        ...

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Return the function from released buffers to arrays on `device` that own them."""
        ...

    def supports_dtype(self, dtype: str) -> bool:
        """Return True if results can have this dtype, or a narrow one: NOTE [narrow integers]."""
        ...

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Say why there are no results of this dtype, and what to write instead."""
        ...

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Make arrays of these specs that have no values."""
        ...
