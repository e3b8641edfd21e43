"""The faces a framework shows to bridge: its arrays, its functions, its call sites."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge._core.op import AppliedRule, Arrays, Op, Specs
from bridge._core.spec import ArraySpec

# Where work on a device is queued: the number of the device, the address of its stream.
DeviceStream = tuple[int, int]
# Evaluates an Op on buffers, and writes its outputs into others.
ExecuteInto = Callable[[Op, Sequence[Any], Sequence[Any], DeviceStream | None], None]


# Evaluates an Op on arrays of the caller's framework.
Execute = Callable[[Op, Sequence[Any]], Arrays]
# The same for so many of the outputs, the first ones, and all outputs as they are at home.
ExecuteAndSave = Callable[[Op, Sequence[Any], int], tuple[Arrays, Sequence[Any]]]


class Executor(Protocol):
    """How Ops are evaluated for a caller."""

    @property
    def execute_into(self) -> ExecuteInto:
        """What evaluates them on buffers."""
        ...

    @property
    def changes_device(self) -> bool:
        """Whether they compute on another device than that of the caller's arrays."""
        ...

    @property
    def execute(self) -> Execute:
        """What gives the outputs for arrays of the caller's framework."""
        ...

    @property
    def execute_and_save(self) -> ExecuteAndSave:
        """What gives some of them, and all of them as arrays that an Op takes."""
        ...


# What optree wants to know of a class: how to take an instance apart, how to rebuild it.
PytreeNode = tuple[Callable[..., Any], Callable[..., Any]]


class ArrayBackend(Protocol):
    """What every kind of array can do: be known, and leave."""

    name: str
    requires_contiguous: (
        bool  # whether arrays can be made only over memory without gaps or reversed axes
    )

    def is_array(self, x: Any) -> bool:
        """Whether `x` is an array of this framework."""
        ...

    def spec(self, x: Any) -> ArraySpec:
        """Shape, dtype and device of `x`; never waits for values. Refuses what cannot cross."""
        ...

    def signature(self, x: Any) -> Hashable:
        """What `spec` depends on, as cheaply as it can be had: part of the key of every call."""
        ...

    @property
    def check_not_traced(self) -> Callable[[Any], Any] | None:
        """An array as it is now; raises if a call would lose its gradient, where `key` does not."""
        ...

    def export(self, x: Any, *, dense: bool, copy: bool | None, whole: bool = True) -> Any:
        """`x`, whose value is wanted elsewhere, over its own memory where that will do.

        Unless it is to be `whole`, it may stay spread over several devices.
        """
        ...

    def convert(self, x: Any, *, copy: bool | None) -> Any:
        """An array over what a framework exported; `copy` as in the array API standard."""
        ...

    def pytree_node(self, x: Any) -> PytreeNode | None:
        """How to take apart and rebuild a node of this framework's pytrees, as optree asks."""
        ...


class SourceArrays(ArrayBackend, Protocol):
    """Arrays a function runs on at home, over memory that belongs to its caller."""

    # What Ops are called and their outputs released in, if that is anything.
    compute_context: Callable[[], AbstractContextManager[None]] | None
    # From a result that no other framework can hold to an array and its kind, `None` for others;
    # and from its values and its kind back. Without it, if there are no such results.
    unwrap_key: Callable[[Any], tuple[Any, str] | None] | None
    wrap_key: Callable[[Any, str], Any] | None

    def check_dtype(self, dtype: str) -> None:
        """Raise for arguments of a dtype that is lacking here."""
        ...

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """From buffers to what functions on `device` take, over the same memory."""
        ...

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """From outputs on `device` to DLPack capsules of host memory; elsewhere arrays."""
        ...

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Evaluate `op` on the memory of `operands` and write its outputs into that of `results`.

        Both are NumPy arrays, or on a `stream` objects with `__dlpack__`; the work is then queued
        there, not waited for. Raises unless the outputs are as many as the results, and alike;
        integers of 64 bits may be written as 32, and are waited for: NOTE [narrowing].
        Only callers whose compiler allocates results ask for this: JAX does, and it has no need
        of it at home.
        """
        ...


class TargetArrays(ArrayBackend, Protocol):
    """Arrays a function that lives elsewhere is called with."""

    def target_signature(self, x: Any) -> Hashable:
        """What `seen` depends on; `x` may be traced by the caller."""
        ...

    def target_spec(self, x: Any) -> ArraySpec:
        """Shape, dtype and device of `x` to a function of another framework."""
        ...

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """From arrays to their buffers on `device`, for reading until the outputs are ready.

        Each is a NumPy array or has `__dlpack__`; what is no array of ours is passed on.
        """
        ...

    def read_values(self, x: Any) -> Any:
        """A buffer with the values of a result that no derivative is taken by, if it has values."""
        ...

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """From what was released to arrays on `device` that own it; waits until it is written."""
        ...

    def supports_dtype(self, dtype: str) -> bool:
        """Whether results of this dtype can be had, if within a range: NOTE [narrowing]."""
        ...

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Why results of this dtype cannot be had, and what to write instead."""
        ...

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Arrays of these shapes and dtypes that have no values."""
        ...


class Source(Protocol):
    """Functions that live here and are wanted elsewhere."""

    traces_scalars: bool  # whether Python numbers are arrays to a trace, or constants
    supports_rng: bool  # whether random numbers follow from a seed that is no argument

    def check_options(self, **options: Any) -> None:
        """Raise if an option of a wrapped function has a value it does not take."""
        ...

    def check_device(self, device: str) -> None:
        """Raise for what is no device that functions can be told to compute on."""
        ...

    def is_module(self, fn: Any) -> bool:
        """Whether `fn` is an object with parameters of its own."""
        ...

    def holds_parameters(self, x: Any) -> bool:
        """Whether a function made of `x` would freeze parameters that are arguments to others."""
        ...

    def functionalize(self, module: Any, *, wide: bool) -> tuple[Any, Any, Any, Any]:
        """A pure function `(modes, params, buffers, *args)`, what gives the modes, both values."""
        ...

    def trace_context(self) -> Hashable:
        """The settings a trace depends on besides its arguments."""
        ...

    def compute_device(self, device: str, asked: str | None) -> str:
        """Where a call with arrays on `device` computes; raises if that is out of reach."""
        ...

    def make_op(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        primals: Specs,
        labels: Sequence[str],
        **options: Any,
    ) -> Op:
        """`fn`, of flat arrays, as an Op whose rules are this framework's own autodiff."""
        ...

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        **options: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Shapes of the outputs of `fn` where those of `primals` have names in them."""
        ...


class StageableFunction(Protocol):
    """A bridged function, as a target that records it in a graph sees it."""

    staged_function: Any  # what a compiler runs to trace it
    graph_objects: list[Any]  # what graphs refer to by number
    graph_constants: Any  # what graphs refer to by name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The results."""
        ...

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """The leaves of the arguments, and their structure."""
        ...

    def unwrap_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        """These leaves as they were passed, static ones too."""
        ...

    def record_call(self, args: Any, kwargs: Any) -> "StagedCall":
        """A call with these arguments."""
        ...


class StagedCall(Protocol):
    """A call of a bridged function that a graph holds, and the rules that it is derived by."""

    @property
    def structure(self) -> Any:
        """The structure of the results."""
        ...

    def output_specs(self) -> Specs:
        """What is known of the results."""
        ...

    def symbolic_shapes(
        self, names: Sequence[Sequence[int | str]]
    ) -> Sequence[Sequence[int | str]] | None:
        """Shapes of the results where those of the arrays have names in them, if that is known."""
        ...

    def dependent_outputs(self, steps: Sequence[AppliedRule], argnums: Sequence[int]) -> list[int]:
        """Positions of the results that depend on one of the arrays at `wanted`."""
        ...

    def differentiable_outputs(self, steps: Sequence[AppliedRule]) -> list[int]:
        """Positions of the results of a differentiable dtype, which have tangents."""
        ...

    def execute(self, steps: Sequence[AppliedRule], arrays: Sequence[Any]) -> Arrays:
        """The results for these arrays: of the caller, then what each derivative takes."""
        ...


# Where a function is found in any process, the settings and the arguments it is planned for, each
# as text; raises `ArgumentError` if there is no such text, without naming the function.
ExportKey = Callable[[], tuple[str, str, str]]


class RebuildableFunction(Protocol):
    """A bridged function that a compiled program of another process names."""

    def rebuild(self, ambient: str, arguments: str) -> tuple[Op, ExecuteInto]:
        """The Op for what an `Origin` says, and what evaluates it."""
        ...


class Target(Protocol):
    """Call sites here for functions that live elsewhere."""

    def make_native(
        self, op: Op, runner: Executor, origin: ExportKey | None
    ) -> Callable[..., Arrays]:
        """A native differentiable function that evaluates `op` by `runner`."""
        ...

    def rng_seed(self, key: Any) -> Any:
        """The integers of a key for random numbers, as an array."""
        ...

    def fresh_seed(self) -> Any:
        """Integers drawn as the caller draws random numbers; `None` if calls must be pure."""
        ...

    def suspend_transforms(self) -> AbstractContextManager[None]:
        """What is done in here takes no part in what the caller is at, and keeps nobody waiting."""
        ...

    def is_compiling(self) -> bool:
        """Whether a compiler is reading the caller's code."""
        ...

    def is_staged(self, x: Any) -> bool:
        """Whether `x` stands for an array in a graph that is being recorded."""
        ...

    def staged_spec(self, x: Any) -> tuple[Hashable, ArraySpec]:
        """Signature and spec of a staged array, unknown sizes replaced by examples."""
        ...

    def call_in_compiled_code(self, function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """The results of a call in compiled code; the compiler reads this."""
        ...

    def stage(self, function: StageableFunction, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The outputs of a call that is recorded in a graph, and their structure."""
        ...

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[Any],
        *,
        order: int,
        modes: Sequence[str],
        **how: Any,
    ) -> None:
        """Raise unless the derivatives of `fn`, of flat arrays, agree with finite differences.

        `NotImplementedError` if it has no rule for one of `modes`, `"fwd"` and `"rev"`.
        """
        ...

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[Any]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """The results of `fn`, and the function from their cotangents to the gradients."""
        ...
