"""Capture of functions of torch as graphs, by calls with tensors that have no values."""

import contextlib
from collections.abc import Callable, Container, Generator, Sequence
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._arrays.torch.upstream.capture_settings import capture_settings
from bridge._arrays.torch.upstream.errors import is_backward_call_error, no_graph_reason
from bridge._arrays.torch.upstream.graphs import (
    export,
    fake_tensors,
    graphs_have_a_loss_wrong,
    load_exporter,
)
from bridge._arrays.torch.upstream.tensors import is_fake, storage_id
from bridge._core.errors import ArgumentError, BridgeError, NoRuleError, NoValuesError
from bridge._core.op import Positions, Specs
from bridge._sources.torch.autodiff.function_calls import intercept_apply
from bridge._sources.torch.autodiff.transforms import ACCUMULATES
from bridge._sources.torch.autodiff.unrecorded_outputs import TrainingRun
from bridge._sources.torch.capture.corrections import CorrectedFunctions
from bridge._sources.torch.capture.environment import Fun, default_state
from bridge._sources.torch.capture.graph import (
    add_none_gradients,
    copy_aliased_outputs,
    results,
    simplify,
)
from bridge._sources.torch.capture.rewrites import RewrittenFunctions
from bridge._sources.torch.capture.sparse import DenseGradients, SparseError
from bridge._sources.torch.code.codegen import graph_constants
from bridge._sources.torch.gradient_observer import GradientObserver
from bridge._sources.torch.program import Program, Settings
from bridge._sources.torch.state.dry_run import Trial, call_user_function, trial_runs
from bridge._sources.torch.state.operands import AccessGuard, MutationGuard
from bridge._sources.torch.state.replaced_tensors import SWAP_LOCK, bypass_message, replaced_names
from bridge._sources.torch.state.retained_tensors import tensors_read_again


def on_copies(fn: Callable[..., Any], name: str) -> Fun:
    """Make `fn` take copies of its arguments, and return a list of tensors."""

    def fun(*xs: torch.Tensor) -> list[torch.Tensor]:
        with CorrectedFunctions():
            returned = call_user_function(fn, [x.clone() for x in xs])
        outputs = [returned] if isinstance(returned, torch.Tensor) else list(returned)
        return [_as_tensor(y, f"result {i} of {name}") for i, y in enumerate(outputs)]

    return fun


def _as_tensor(y: Any, label: str) -> torch.Tensor:
    """Return a result as a tensor; raise unless it is a tensor or a number."""
    if isinstance(y, (bool, int, float, complex)):
        return torch.tensor(y)
    if type(y).__module__ == "numpy" and hasattr(y, "dtype"):
        return torch.tensor(y)
    if not isinstance(y, torch.Tensor):
        raise ArgumentError(f"{label} is a {type(y).__name__}, not a tensor or a number.")
    try:
        ARRAYS.spec(y)
    except ArgumentError as error:
        raise ArgumentError(f"{label} cannot cross: {error}") from None
    return y


def contiguous_copy(y: torch.Tensor) -> torch.Tensor:
    """Copy `y` to contiguous memory, with pending conjugations and negations done."""
    return y.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def trace(
    fun: Fun, primals: Specs, *, name: str, settings: Settings, training: bool = False
) -> Program:
    """Capture `fun` for primals of these specs; raise `NoValuesError` if it looks at values.

    If `training`, the arguments require gradients, and a function that asks sees that.
    """
    observer, guard = GradientObserver(), MutationGuard()
    run = TrainingRun(training=training)

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with (
            torch.enable_grad(),
            guard,
            AccessGuard(guard, name),
            observer,
            DenseGradients(),
            RewrittenFunctions(),
            intercept_apply(observer.apply, observes=True),
        ):
            returned = run(fun, [x.detach() for x in xs])
            copies = tuple(contiguous_copy(y.detach()) for y in returned)
        run.look(returned)
        return copies

    with _capturing(name, settings.dtype, guard) as trial:
        fakes = fake_tensors(primals)
        module = export(outputs, fakes, joint=False)
        _check_constants(module, name)
        _check_state(trial, outputs, fakes, name)
        simplify(module)
        copy_aliased_outputs(module.graph)
    if observer.wrong_in_graphs and graphs_have_a_loss_wrong():
        raise NoValuesError(
            f"{name} cannot be captured as a graph: torch computes "
            f"{observer.wrong_in_graphs} wrongly there."
        )
    return make_program(module, observer, run.unrecorded)


def trace_decomposition(
    fun: Callable[..., Sequence[Any]], primals: Specs, *, name: str, dtype: torch.dtype
) -> torch.fx.GraphModule:
    """Capture the graph of `fun`, with `None` for each result that is not a tensor."""
    is_tensor: list[bool] = []

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        returned = fun(*[x.clone() for x in xs])  # some operators declare that they write to them
        is_tensor[:] = [isinstance(y, torch.Tensor) for y in returned]
        return tuple(contiguous_copy(y) for y in returned if isinstance(y, torch.Tensor))

    with _capturing(name, dtype), torch.no_grad():
        module = export(outputs, fake_tensors(primals), joint=False)
        simplify(module)
    tensors = iter(results(module.graph))
    end = module.graph.output_node()
    end.args = (tuple(next(tensors) if present else None for present in is_tensor),)
    return module


def trace_joint(
    fun: Fun,
    primals: Specs,
    argnums: Positions,
    outnums: Positions,
    *,
    name: str,
    settings: Settings,
) -> tuple[torch.fx.GraphModule, Positions]:
    """Capture the graph from primals and cotangents to all outputs and the gradients of primals.

    It returns `None` for primals that are not at `argnums`. The positions that are returned with it
    are those of `outnums` that depend on a primal at `argnums`: its cotangents are of these.
    """
    recorded: dict[int, None] = {}  # an ordered set
    guard = MutationGuard()

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with (
            torch.enable_grad(),
            guard,
            AccessGuard(guard, name),
            DenseGradients(),
            RewrittenFunctions(),
        ):
            returned = fun(*xs)
            recorded.update((i, None) for i in outnums if returned[i].requires_grad)
            return _copy_outputs(returned, recorded)

    with _capturing(name, settings.dtype, guard):
        fakes = fake_tensors(primals)
        for i in argnums:
            fakes[i].requires_grad_()
        module = export(outputs, fakes, joint=True)
        _check_constants(module, name)
        simplify(module)
    if not recorded:
        add_none_gradients(module.graph, len(primals))
    return module, tuple(recorded)


def _copy_outputs(
    outputs: Sequence[torch.Tensor], recorded: Container[int]
) -> tuple[torch.Tensor, ...]:
    """Return copies, with gradients at the positions in `recorded` alone."""
    return tuple(contiguous_copy(y if i in recorded else y.detach()) for i, y in enumerate(outputs))


def make_program(
    module: torch.fx.GraphModule,
    observer: GradientObserver | None = None,
    unrecorded: frozenset[int] = frozenset(),
) -> Program:
    """Make a program of the graph of `module`."""
    values = [node.meta["val"] for node in results(module.graph)]
    specs = tuple(map(ARRAYS.spec, values))
    return Program(module, specs, observer or GradientObserver(), unrecorded)


@contextlib.contextmanager
def _capturing(
    name: str, dtype: torch.dtype, guard: MutationGuard | None = None
) -> Generator[Trial]:
    """Set torch up for a capture; raise errors of torch within as errors that users understand."""
    load_exporter()  # imported before any setting is changed
    try:
        with SWAP_LOCK, default_state(dtype), capture_settings(), trial_runs() as trial:
            yield trial
    except BridgeError:
        raise
    except (RuntimeError, AssertionError, TypeError) as error:
        if guard is not None:
            _check_unchanged(guard, name)
        explained = _explain(name, error)
        if explained is None:
            raise
        raise explained from error
    if guard is not None:
        _check_unchanged(guard, name)


def _explain(name: str, error: Exception) -> Exception | None:
    """Return the error for the user in place of one that torch raised in a capture, if known."""
    if "mutating a non-functional tensor" in str(error):
        return _mutation_error(name, "a tensor")
    if is_backward_call_error(error):
        return NoRuleError(ACCUMULATES)
    reason = str(error) if isinstance(error, SparseError) else no_graph_reason(error)
    return (
        NoValuesError(f"{name} cannot be captured as a graph, since {reason}") if reason else None
    )


def _check_constants(module: torch.fx.GraphModule, name: str) -> None:
    """Raise if a constant of the graph was replaced in its module, or has no values.

    A capture runs the function more than once. A tensor that one run leaves for the next, in a
    cache say, has no values, and its memory is undefined.
    """
    names = replaced_names()
    for _, constant in graph_constants(module):
        if is_fake(constant):
            raise _retained_tensor_error(name, constant)
        label = names.get(storage_id(constant) or 0)
        if label:
            raise ArgumentError(f"{name} {bypass_message(label)}")


def _check_state(
    trial: Trial, fun: Callable[..., Any], fakes: Sequence[torch.Tensor], name: str
) -> None:
    """Raise if a function adds to the `.grad` of tensors, or reads tensors of its last call."""
    if trial.accumulated:
        raise NoRuleError(f"{name} cannot be captured as a graph: {ACCUMULATES}")
    for x in tensors_read_again(fun, fakes, trial):
        raise _retained_tensor_error(name, x)


def _retained_tensor_error(name: str, x: torch.Tensor) -> ArgumentError:
    return ArgumentError(
        f"{name} keeps a tensor ({ARRAYS.spec(x)}) of one run for the next, in an attribute, a "
        "cache or a global, where it cannot stay: while a function is captured, it has no values. "
        "Fill a cache before, by calling the function once in torch; pass a state as an argument, "
        "and return its new value."
    )


def _check_unchanged(guard: MutationGuard, name: str) -> None:
    """Raise if a function tried to change a captured tensor, even if it caught that error."""
    if guard.refused is not None:
        raise _mutation_error(name, f"a tensor ({ARRAYS.spec(guard.refused)})") from None


def _mutation_error(name: str, tensor: str) -> ArgumentError:
    """Make the error for a function that changes a captured tensor."""
    return ArgumentError(
        f"{name} changes {tensor} in place that is none of its arguments, so each call, and each "
        "derivative, would change it again. Pass it as an argument and return its new value, as "
        "torch.func.functional_call does with the buffers of a module."
    )
