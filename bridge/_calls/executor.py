"""The execution of Ops on arrays of another framework."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from bridge import _registry
from bridge._core.array_protocols import SourceArrays, TargetArrays
from bridge._core.errors import NoRuleError
from bridge._core.function_protocols import ExecuteInto
from bridge._core.invalid_values import describe_invalid
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Execute, ExecuteForSaving, Executor


@dataclasses.dataclass(frozen=True, slots=True)
class OpExecutor:
    """Executes Ops of a source on arrays of a target, or on buffers that a compiler allocated.

    Attributes:
        execute: Executes an Op on target arrays.
        execute_for_saving: Executes an Op on target arrays; also returns its outputs as source
            arrays.
        source_arrays: The arrays that Ops take.
        changes_device: True if Ops compute on another device than that of the target arrays.
    """

    execute: Execute
    execute_for_saving: ExecuteForSaving
    source_arrays: SourceArrays
    changes_device: bool = False

    @property
    def execute_into(self) -> ExecuteInto:
        """Execute an Op on buffers, and write its outputs to other buffers."""
        return self.source_arrays.execute_into


def make_lowering_executor(source: str, target: str) -> Executor:
    """Make the executor of Ops of `source` as code of `target`."""
    execute = _registry.target(target).execute_lowered
    if execute is None:
        raise NoRuleError(f"functions of {source} cannot become code of {target}.")

    def execute_for_saving(op: Op, xs: Sequence[Any], _: int) -> tuple[Arrays, Sequence[Any]]:
        outputs = execute(op, xs)
        return outputs, outputs

    return OpExecutor(execute, execute_for_saving, _registry.source_arrays(source))


def make_executor(source: str, target: str, *, device: str, compute_device: str) -> Executor:
    """Make the executor of Ops of `source` for arrays of `target` that are on `device`."""
    source_arrays, target_arrays = _registry.source_arrays(source), _registry.target_arrays(target)
    if device == "meta":
        return _make_inferring_executor(source_arrays, target_arrays)

    # Made here, once, because the functions below run on every call.
    lend, borrow = target_arrays.lender(compute_device), source_arrays.borrower(compute_device)
    release, adopt = source_arrays.releaser(compute_device), target_arrays.adopter(device)

    def execute(op: Op, xs: Sequence[Any]) -> Arrays:
        try:
            return adopt(release(op.call(*borrow(lend(xs)))))
        except FloatingPointError as error:
            error.add_note(describe_invalid(op.name, (source, target)))
            raise

    def execute_for_saving(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        try:
            outputs = op.call(*borrow(lend(xs)))
        except FloatingPointError as error:
            error.add_note(describe_invalid(op.name, (source, target)))
            raise
        return adopt(release(outputs[:count])), outputs

    changes_device = compute_device not in (device, device.removesuffix(":0"))
    executor = OpExecutor(execute, execute_for_saving, source_arrays, changes_device)
    compute_context = source_arrays.compute_context
    return _in_context(executor, compute_context) if compute_context else executor


def _in_context(
    executor: OpExecutor, compute_context: Callable[[], AbstractContextManager[None]]
) -> OpExecutor:
    """Return an executor like this one, which executes in a context."""
    execute, execute_for_saving = executor.execute, executor.execute_for_saving

    def execute_in_context(op: Op, xs: Sequence[Any]) -> Arrays:
        with compute_context():
            return execute(op, xs)

    def save_in_context(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        with compute_context():
            return execute_for_saving(op, xs, count)

    return dataclasses.replace(
        executor, execute=execute_in_context, execute_for_saving=save_in_context
    )


def _make_inferring_executor(source_arrays: SourceArrays, target_arrays: TargetArrays) -> Executor:
    """Make the executor for arrays without values, which calls nothing."""
    infer: Execute = lambda op, xs: target_arrays.meta_arrays(op.output_specs())
    return OpExecutor(infer, lambda op, xs, count: (infer(op, xs)[:count], ()), source_arrays)
