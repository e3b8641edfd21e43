"""Sources, targets and executors, as the rest of the package sees them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from bridge._core.function_protocols import ExecuteInto, ExportKey, StageableFunction
from bridge._core.op import Arrays, Op, Positions, Specs
from bridge._core.pure_module import PureModule
from bridge._core.saving_forward import SavingChoice
from bridge._core.spec import ArraySpec

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


class Outline(Protocol):
    """What wrapping a function needs to know of a framework, which it does not import."""

    saves_programs: bool  # True if programs that another process has saved can call functions
    supports_rng: bool  # True if random numbers follow from a seed that is no argument

    def check_options(self, **options: Any) -> None:
        """Raise if an option of a wrapper has an unknown value."""
        ...

    def check_device_name(self, device: str) -> None:
        """Raise if functions cannot compute on a device of this name."""
        ...

    def passes_rng(self, fn: Any) -> bool:
        """Return True if a parameter `rng` of `fn` gets what follows from the caller's key."""
        ...

    def is_leaf(self, x: Any) -> bool:
        """Return True if `x` is no container of arrays of the framework, apart from modules."""
        ...

    def has_threads(self) -> bool:
        """Return True if a child that is forked off now lacks threads that the framework needs."""
        ...

    def compiler_check(self) -> Callable[[], bool]:
        """Return the function that returns True while a compiler reads the code of its caller."""
        ...

    def call_in_compiled_code(self, function: StageableFunction, args: Any, kwargs: Any) -> Any:
        """Call `function` in code that a compiler reads."""
        ...


class Source(Protocol):
    """The functions of a framework that others call."""

    traces_scalars: bool  # True if a trace takes Python numbers as arrays, not as constants
    swaps_parameters: bool  # True if functions may call a module with other parameters than its own

    # Makes the key that a function with weights gets; None if such functions are not supported.
    make_key: Callable[[Any], Any] | None

    # Lets the dtype of an array give way to that of others; None if there are no such arrays.
    weakly_typed: Callable[[Any], Any] | None

    def is_module(self, fn: Any) -> bool:
        """Return True if `fn` is a module that `take_apart` takes."""
        ...

    def holds_parameters(self, x: Any) -> bool:
        """Return True if a function that captures `x` would freeze its parameters."""
        ...

    def take_apart(
        self, module: Any, *, method: Any, allow_64_bits: bool
    ) -> tuple[PureModule, dict[str, Any], dict[str, Any]]:
        """Return a module as a pure function, its parameters and its buffers.

        Instead of an array that has no values it returns the spec.
        """
        ...

    def trace_context(self) -> Hashable:
        """Return the settings that a trace depends on besides its arguments."""
        ...

    def describe_context(self, context: Any) -> Mapping[str, Any]:
        """Return by name the settings that a `trace_context` consists of, as far as they have."""
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

    def fresh_seed(
        self,
        device: str,
        sizes: Sequence[int] = (),
        *,
        of_module: bool = False,
        drawn: bool = True,
    ) -> Any:
        """Draw a seed for each example of batches of these sizes, with the generator of a device.

        Returns None if calls, of a module or of another function, must be pure, and zeros if it is
        not to be `drawn`, as for a call that is not made.
        """
        ...

    def choose_saving(self, op: Op, xs: Sequence[Any], argnums: Positions) -> SavingChoice:
        """Return what a call of `op` on `xs` saves for its first derivative, without making it.

        The derivative is by those at `argnums`, where calls do not tell.
        """
        ...

    def suspend_transforms(self) -> AbstractContextManager[None]:
        """Suspend the caller's transforms (torch.func, tracing modes) and release MLX's lock."""
        ...

    def computing_now(self) -> AbstractContextManager[None]:
        """Suspend the caller's transforms and traces: what runs has values."""
        ...

    def is_between_compiled_parts(self) -> bool:
        """Return True if a compiler waits to read the next function; raise if it would record."""
        ...

    def needs_staging(self, x: Any) -> bool:
        """Return True if `x` stands for an array in a graph that is being recorded."""
        ...

    def staged_signature_and_spec(self, x: Any) -> tuple[Hashable, ArraySpec]:
        """Return signature and spec of a staged array, with examples for unknown sizes."""
        ...

    def stage(self, function: StageableFunction, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Record a call in a graph; return its outputs and their structure."""
        ...

    # Executes an Op by the operators that its graph becomes; None if Ops cannot become code here.
    execute_lowered: Execute | None

    # Makes a module of a pure module, its bridged function, parameters and buffers; None if the
    # framework has no modules of its own.
    make_module: Callable[..., Any] | None

    # Copies a buffer for a call, after which the module writes into it; None if modules replace it.
    copy_before_write: Callable[[Any], Any] | None

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
