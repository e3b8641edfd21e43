"""Functions of torch as graphs, made from tensors without values."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._core.errors import ArgumentError, BridgeError, NoRuleError, NoValuesError
from bridge._core.op import Positions, Specs
from bridge._sources.torch.autodiff.function_calls import intercept_apply
from bridge._sources.torch.autodiff.transforms import ACCUMULATES
from bridge._sources.torch.autodiff.unrecorded_outputs import TrainingRun
from bridge._sources.torch.capture.corrections import CorrectedFunctions
from bridge._sources.torch.capture.environment import default_state
from bridge._sources.torch.capture.graph import copy_aliased_outputs, results, simplify
from bridge._sources.torch.capture.rewrites import RewrittenFunctions
from bridge._sources.torch.capture.sparse import DenseGradients, SparseError
from bridge._sources.torch.capture.torch_settings import capture_settings
from bridge._sources.torch.code.codegen import get_attribute
from bridge._sources.torch.internals import (
    GradientObserver,
    export,
    fake_tensors,
    graphs_have_a_loss_wrong,
    is_accumulation_error,
    is_change_error,
    is_fake,
    is_shape_error,
    is_value_error,
    load_exporter,
    storage_id,
)
from bridge._sources.torch.program import Program, Settings
from bridge._sources.torch.state.dry_run import Trial, call_user_function, trial_runs
from bridge._sources.torch.state.kept_tensors import tensors_read_again
from bridge._sources.torch.state.operands import AccessGuard, MutationGuard
from bridge._sources.torch.state.replaced_tensors import SWAP_LOCK, bypass_message, own_tensors

Fun = Callable[..., Sequence[torch.Tensor]]


def on_copies(fn: Callable[..., Any], name: str) -> Fun:
    """`fn` on copies of its arguments, its results as tensors; by operators torch can transform."""

    def fun(*xs: torch.Tensor) -> list[torch.Tensor]:
        with CorrectedFunctions():
            found = call_user_function(fn, [x.clone() for x in xs])
        row = [found] if isinstance(found, torch.Tensor) else list(found)
        return [_tensor(y, f"result {i} of {name}") for i, y in enumerate(row)]

    return fun


def _tensor(y: Any, label: str) -> torch.Tensor:
    if isinstance(y, (bool, int, float, complex)):
        return torch.tensor(y)
    if type(y).__module__ == "numpy" and hasattr(y, "dtype"):
        return torch.tensor(y)
    if not isinstance(y, torch.Tensor):
        raise ArgumentError(f"{label} is a {type(y).__name__}, no tensor or number.")
    try:
        ARRAYS.spec(y)
    except ArgumentError as error:
        raise ArgumentError(f"{label} cannot cross: {error}") from None
    return y


def contiguous_copy(y: torch.Tensor) -> torch.Tensor:
    """`y` row by row in memory of its own, nothing about it put off."""
    return y.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def trace(
    fun: Fun, primals: Specs, *, name: str, settings: Settings, training: bool = False
) -> Program:
    """`fun` for arguments of these specs; raises `NoValuesError` if it looks at values.

    A function that asks whether its arguments require gradients sees that they do if `training`.
    """
    blocks, guard = GradientObserver(), MutationGuard()
    run = TrainingRun(training=training)

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with (
            torch.enable_grad(),
            guard,
            AccessGuard(guard, name),
            blocks,
            DenseGradients(),
            RewrittenFunctions(),
            intercept_apply(blocks.apply, observes=True),
        ):
            found = run(fun, [x.detach() for x in xs])
            dense = tuple(contiguous_copy(y.detach()) for y in found)
        run.look(found)
        return dense

    with _capturing(name, settings.dtype, guard) as trial:
        fakes = fake_tensors(primals)
        module = export(outputs, fakes, joint=False)
        _check_constants(module, name)
        if trial.accumulated:
            raise NoRuleError(f"{name} cannot be captured as a graph: {ACCUMULATES}")
        for x in tensors_read_again(outputs, fakes, trial):
            raise _kept_error(name, x)
        simplify(module)
        copy_aliased_outputs(module.graph)
    if blocks.wrong and graphs_have_a_loss_wrong():
        raise NoValuesError(
            f"{name} cannot be captured as a graph: torch computes {blocks.wrong} wrongly there."
        )
    return make_program(module, blocks, run.unrecorded)


def trace_functional(
    fun: Callable[..., Sequence[Any]], primals: Specs, *, name: str, dtype: torch.dtype
) -> torch.fx.GraphModule:
    """The graph of `fun` on such arguments; its results that are no tensors are `None`."""
    kinds: list[bool] = []

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = fun(*[x.clone() for x in xs])  # some operators say that they write to arguments
        kinds[:] = [isinstance(y, torch.Tensor) for y in found]
        return tuple(contiguous_copy(y) for y in found if isinstance(y, torch.Tensor))

    with _capturing(name, dtype), torch.no_grad():
        module = export(outputs, fake_tensors(primals), joint=False)
        simplify(module)
    found = iter(results(module.graph))
    end = module.graph.output_node()
    end.args = (tuple(next(found) if kind else None for kind in kinds),)
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
    """The graph of all outputs and of the gradients of all primals, `None` for those unwanted.

    Its inputs are the primals and cotangents of those outputs at the positions that are returned
    with it: the given ones that a wanted primal reaches.
    """
    flows: dict[int, None] = {}
    guard = MutationGuard()

    def outputs(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with (
            torch.enable_grad(),
            guard,
            AccessGuard(guard, name),
            DenseGradients(),
            RewrittenFunctions(),
        ):
            found = fun(*xs)
            flows.update((i, None) for i in outnums if found[i].requires_grad)
            return tuple(
                contiguous_copy(y if i in flows else y.detach()) for i, y in enumerate(found)
            )

    with _capturing(name, settings.dtype, guard):
        fakes = fake_tensors(primals)
        for i in argnums:
            fakes[i].requires_grad_()
        module = export(outputs, fakes, joint=True)
        _check_constants(module, name)
        simplify(module)
    if not flows:
        end = module.graph.output_node()
        end.args = ((*results(module.graph), *[None] * len(primals)),)
    return module, tuple(flows)


def make_program(
    module: torch.fx.GraphModule,
    blocks: GradientObserver | None = None,
    unrecorded: frozenset[int] = frozenset(),
) -> Program:
    """The function that the graph of `module` computes."""
    values = [node.meta["val"] for node in results(module.graph)]
    specs = tuple(map(ARRAYS.spec, values))
    return Program(module, specs, blocks or GradientObserver(), unrecorded)


@contextlib.contextmanager
def _capturing(
    name: str, dtype: torch.dtype, guard: MutationGuard | None = None
) -> Generator[Trial]:
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
    """What an error that torch raises while it captures says to the user, if we know."""
    if "mutating a non-functional tensor" in str(error):
        return _changes_error(name, "a tensor")
    if is_accumulation_error(error):
        return NoRuleError(ACCUMULATES)
    reason = _no_graph_reason(error)
    return reason and NoValuesError(f"{name} cannot be captured as a graph, since {reason}")


def _no_graph_reason(error: Exception) -> Any:
    """Why a function that may run anew has no graph, if `error` says so."""
    if isinstance(error, SparseError):
        return str(error)
    if is_change_error(error):
        return (
            "it changes in place what it has computed from tensors that it captures alone. Pass "
            "them as arguments."
        )
    if is_shape_error(error):
        return (
            "torch cannot tell the shapes of the results of an operator without values "
            f"({error}). `torch.library.register_fake` tells it, if the operator is yours."
        )
    if is_value_error(error):
        return (
            f"it looks at the values of tensors ({error}): by `if`, `.item()`, NumPy, or a shape "
            "that depends on them."
        )
    return None


def _check_constants(module: torch.fx.GraphModule, name: str) -> None:
    """Raise if a constant of the graph is one that another was put in place of, or has no values.

    A graph is made by running the function more than once. What one run has left for the next, in
    a cache say, is a tensor without values, whose memory holds anything.
    """
    own = own_tensors()
    for node in module.graph.find_nodes(op="get_attr"):
        constant = get_attribute(module, str(node.target))
        if is_fake(constant):
            raise _kept_error(name, constant)
        label = own.get(storage_id(constant) or 0)
        if label:
            raise ArgumentError(f"{name} {bypass_message(label)}")


def _kept_error(name: str, x: torch.Tensor) -> ArgumentError:
    return ArgumentError(
        f"{name} keeps a tensor ({ARRAYS.spec(x)}) of one run for the next, in an attribute, a "
        "cache or a global, where it cannot stay: while a function is captured, it has no values. "
        "Fill a cache before, by calling the function once in torch; pass a state as an argument, "
        "and return its new value."
    )


def _check_unchanged(guard: MutationGuard, name: str) -> None:
    """Raise if a function tried to change a tensor, also if it has caught the error of that."""
    if guard.refused is not None:
        raise _changes_error(name, f"a tensor ({ARRAYS.spec(guard.refused)})") from None


def _changes_error(name: str, what: str) -> ArgumentError:
    return ArgumentError(
        f"{name} changes {what} in place that is none of its arguments, so each call, and each "
        "derivative, would change it again. Pass it as an argument and return its new value, as "
        "torch.func.functional_call does with the buffers of a module."
    )
