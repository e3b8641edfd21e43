"""The user's functions and their calls, as sources and targets see them."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

from bridge._core.array_protocols import DeviceStream
from bridge._core.op import AppliedRule, Arrays, Op, Specs

# Executes an Op on buffers, and writes its outputs to other buffers.
ExecuteInto = Callable[[Op, Sequence[Any], Sequence[Any], DeviceStream | None], None]


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

    written: Any  # the user's function itself
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

    def copy_results(self, other: Any) -> None:
        """Take the structure of the results from a function that has returned such."""
        ...


class StageableFunction(Protocol):
    """A bridged function, as seen by a target that records its calls in a graph."""

    staging_function: Any  # what a compiler traces in place of a call
    graph_objects: list[Any]  # what graphs refer to by number
    named_graph_objects: Any  # what graphs refer to by name
    kept_for_graphs: dict[Any, Any]  # what calls in graphs look up again each time

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        ...

    @property
    def is_lowered(self) -> bool:
        """True if it becomes code of the caller's framework."""
        ...

    def call_lowered(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Call it as code of the caller's framework; return flat results and their structure."""
        ...

    def flatten(self, args: Any, kwargs: Any) -> tuple[list[Any], Any]:
        """Return the leaves of the arguments, and their structure."""
        ...

    def trace_context(self) -> Hashable:
        """Return the settings of its framework that a trace depends on."""
        ...

    def result_leaves(self, results: Any) -> list[Any]:
        """Return the leaves of the results of a call."""
        ...

    def unwrap_static_leaves(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves as they were passed, static ones unwrapped."""
        ...

    def copy_buffers(self, args: Any, copy: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
        """Return the arguments with copies of buffers that a module writes to after the call."""
        ...

    def add_seed(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """Return the keyword arguments, with a new seed if the call draws random numbers."""
        ...

    def make_staged_call(self, args: Any, kwargs: Any) -> "StagedCall":
        """Return a call with these arguments, for a graph to hold."""
        ...


class StagedHalves(Protocol):
    """The halves of the first derivative of a call that a graph holds."""

    output_count: int  # how many results of the forward are outputs; the others are residuals

    def residual_specs(self) -> Specs:
        """Return the specs of the residuals."""
        ...

    def saved_specs(self) -> Specs:
        """Return the specs of the saved outputs and of the residuals, which the backward takes."""
        ...

    def read_saved(self, results: Sequence[Any]) -> list[Any]:
        """Return the saved outputs and the residuals among the results of the forward."""
        ...

    def execute_forward(self, arrays: Sequence[Any]) -> Arrays:
        """Compute the outputs and the residuals."""
        ...

    def execute_backward(
        self,
        argnums: Sequence[int],
        arrays: Sequence[Any],
        saved: Sequence[Any],
        cotangents: Sequence[Any],
    ) -> Arrays:
        """Compute the gradients of the arrays at `argnums`."""
        ...


class StagedCall(Protocol):
    """A call of a bridged function that a graph holds; it can be derived further."""

    @property
    def structure(self) -> Any:
        """The structure of the results."""
        ...

    def without_arrays(self) -> "StagedCall":
        """Return the call without the arrays that it was made with, which need not stay."""
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

    def halves(
        self, steps: Sequence[AppliedRule], argnums: Sequence[int], outnums: Sequence[int]
    ) -> StagedHalves | None:
        """Return the halves of the derivative, None if a graph cannot hold what is saved."""
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
