"""Source functions, call sites and executors, as the rest of the package sees them."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge._core.array_protocols import DeviceStream
from bridge._core.op import AppliedRule, Arrays, Op, Specs
from bridge._core.spec import ArraySpec

# Executes an Op on buffers, and writes its outputs to other buffers.
ExecuteInto = Callable[[Op, Sequence[Any], Sequence[Any], DeviceStream | None], None]
# Executes an Op on target arrays; returns target arrays.
Execute = Callable[[Op, Sequence[Any]], Arrays]
# Executes an Op; returns its first `count` outputs as target arrays, and all of them as source
# arrays.
ExecuteForSaving = Callable[[Op, Sequence[Any], int], tuple[Arrays, Sequence[Any]]]


SEED = "rng"  # the argument that is a key, from which random numbers follow


class Executor(Protocol):
    """Executes Ops of a source for a target."""

    @property
    def execute_into(self) -> ExecuteInto:
        """The function that executes an Op on buffers."""
        ...

    @property
    def changes_device(self) -> bool:
        """True if Ops compute on another device than that of the target arrays."""
        ...

    @property
    def execute(self) -> Execute:
        """The function that executes an Op on target arrays."""
        ...

    @property
    def execute_for_saving(self) -> ExecuteForSaving:
        """The function that executes an Op; it also returns source arrays, to save some of them."""
        ...


class Source(Protocol):
    """The functions of a framework that others call."""

    traces_scalars: bool  # True if a trace takes Python numbers as arrays, not as constants
    supports_rng: bool  # True if random numbers follow from a seed that is no argument
    passes_rng: bool  # True if a parameter `rng` gets a generator, whose seed is the caller's key

    def check_options(self, **options: Any) -> None:
        """Raise if an option of a wrapper has an unknown value."""
        ...

    def check_device_name(self, device: str) -> None:
        """Raise if functions cannot compute on a device of this name."""
        ...

    def can_functionalize(self, fn: Any) -> bool:
        """Return True if `fn` is a module that `functionalize` takes."""
        ...

    def holds_parameters(self, x: Any) -> bool:
        """Return True if a function that captures `x` would freeze its parameters."""
        ...

    def functionalize(self, module: Any, *, allow_64_bits: bool) -> tuple[Any, Any, Any, Any]:
        """Return `fn(modes, params, buffers, *args)`, a getter of the modes, params and buffers."""
        ...

    def trace_context(self) -> Hashable:
        """Return the settings that a trace depends on besides its arguments."""
        ...

    def choose_compute_device(self, arguments_device: str, requested: str | None) -> str:
        """Return where a call with arrays on `arguments_device` computes; raise if it cannot."""
        ...

    def make_op(
        self,
        fn: Callable[..., Any],
        *,
        name: str,
        primals: Specs,
        argument_names: Sequence[str],
        **options: Any,
    ) -> Op:
        """Make an Op of `fn`, a function of flat arrays; its rules are the source's autodiff."""
        ...

    def symbolic_shapes(
        self,
        fn: Callable[..., Any],
        primals: Specs,
        names: Sequence[Sequence[int | str]],
        **options: Any,
    ) -> list[tuple[int | str, ...]] | None:
        """Return the shapes of the outputs of `fn` for primals whose shapes contain names."""
        ...


class ArgumentTrees(Protocol):
    """The arguments of a function as trees of flat arrays."""

    def unflatten(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments with these arrays."""
        ...

    def primals(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments with these arrays, in the order of parameters, without a key."""
        ...

    def match(self, tree: Any, name: str) -> dict[int, Any]:
        """Return the leaves of a tree like the primals, by array; `name` is its name in errors."""
        ...


class StructuredFunction(Protocol):
    """A function of flat arrays that knows the trees of the user's function."""

    checks_dtypes: bool  # False if the source checks the specs of results after rounding them
    keeps_structure: bool  # True if results of another structure are an error

    @property
    def arguments(self) -> ArgumentTrees:
        """The structure of the arguments."""
        ...

    def takes(self, parameter: str) -> bool:
        """Return True if the user's function has a parameter of this name, or any."""
        ...

    def __call__(self, *arrays: Any) -> Sequence[Any]:
        """Call the user's function; return the leaves of its results."""
        ...

    def unflatten_results(self, outputs: Sequence[Any]) -> Any:
        """Return a tree like the results."""
        ...

    def flatten_results(self, tree: Any, name: str) -> list[Any]:
        """Return the leaves of a tree like the results; `name` is its name in errors."""
        ...

    def check_result_specs(self, specs: Specs) -> None:
        """Raise for results that the caller's framework has no dtype for."""
        ...

    def set_results(self, tree: Any) -> list[Any]:
        """Take the structure of the results from a tree like them; return its leaves."""
        ...


class StageableFunction(Protocol):
    """A bridged function, as seen by a target that records its calls in a graph."""

    staging_function: Any  # what a compiler traces in place of a call
    graph_objects: list[Any]  # what graphs refer to by number
    named_graph_objects: Any  # what graphs refer to by name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        ...

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """Return the leaves of the arguments, and their structure."""
        ...

    def unwrap_static_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves as they were passed, static ones unwrapped."""
        ...

    def make_staged_call(self, args: Any, kwargs: Any) -> "StagedCall":
        """Return a call with these arguments, for a graph to hold."""
        ...


class StagedCall(Protocol):
    """A call of a bridged function that a graph holds; it can be derived further."""

    @property
    def structure(self) -> Any:
        """The structure of the results."""
        ...

    def output_specs(self) -> Specs:
        """Return the specs of the results."""
        ...

    def symbolic_shapes(
        self, names: Sequence[Sequence[int | str]]
    ) -> Sequence[Sequence[int | str]] | None:
        """Return shapes of the results for arrays whose shapes contain names, if known."""
        ...

    def dependent_outputs(self, steps: Sequence[AppliedRule], argnums: Sequence[int]) -> list[int]:
        """Return positions of the results that depend on an array at `argnums`."""
        ...

    def differentiable_outputs(self, steps: Sequence[AppliedRule]) -> list[int]:
        """Return positions of the results with a differentiable dtype."""
        ...

    def output_count(self, steps: Sequence[AppliedRule]) -> int:
        """Return the number of results."""
        ...

    def execute(self, steps: Sequence[AppliedRule], arrays: Sequence[Any]) -> Arrays:
        """Compute the results; `arrays` are those of the call, then those of each derivative."""
        ...


# Returns, each as text, the import path of a function, its trace context and its arguments. Raises
# `ArgumentError` if there is no such text, without naming the function.
ExportKey = Callable[[], tuple[str, str, str]]


class RebuildableFunction(Protocol):
    """A bridged function that a compiled program of another process refers to."""

    def rebuild(self, trace_context: str, arguments: str) -> tuple[Op, ExecuteInto]:
        """Return the Op that an `ExportKey` describes, and what executes it."""
        ...


class Target(Protocol):
    """The call sites of a framework for functions of others."""

    def make_native(
        self, op: Op, runner: Executor, origin: ExportKey | None
    ) -> Callable[..., Arrays]:
        """Make a native differentiable function that executes `op` by `runner`."""
        ...

    def key_data(self, key: Any, *, batch_count: int = 0) -> Any:
        """Return the integers of a key for random numbers, as an array.

        With batches, there is a key for each example, along the first axes.
        """
        ...

    def fresh_seed(self, sizes: Sequence[int] = ()) -> Any:
        """Draw a seed for each example of batches of these sizes, with the framework's generator.

        Returns None if calls must be pure.
        """
        ...

    def suspend_transforms(self) -> AbstractContextManager[None]:
        """Suspend the caller's transforms (torch.func, tracing modes) and release MLX's lock."""
        ...

    def is_tracing_bytecode(self) -> bool:
        """Return True while a compiler reads the caller's code."""
        ...

    def needs_staging(self, x: Any) -> bool:
        """Return True if `x` stands for an array in a graph that is being recorded."""
        ...

    def staged_signature_and_spec(self, x: Any) -> tuple[Hashable, ArraySpec]:
        """Return signature and spec of a staged array, with examples for unknown sizes."""
        ...

    def call_in_compiled_code(self, function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Call `function` in code that a compiler reads."""
        ...

    def stage(self, function: StageableFunction, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Record a call in a graph; return its outputs and their structure."""
        ...

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[Any],
        *,
        order: int,
        modes: Sequence[str],
        **options: Any,
    ) -> None:
        """Raise unless the derivatives of `fn`, of flat arrays, agree with finite differences.

        Raises `NotImplementedError` if it has no rule for one of `modes`, `"fwd"` and `"rev"`.
        """
        ...

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[Any]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """Return the results of `fn`, and the function from cotangents to gradients."""
        ...
