"""The names by which compiled programs call Ops, also in other processes.

NOTE [names of functions]
A program can reach another process: exported, or in the cache where JAX stores compiled programs.
So the name of an Op says where to import the function, for which arguments it was traced, which
rules to apply, and what specs the buffers have. It ends with a digest of the graphs of these Ops.
Without it, a program would call a function that has changed since, with residuals in other places,
say. A function without a graph is identified by its specs alone, if programs depend on nothing
else. A function that cannot be imported gets a name that no other process knows.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax

from bridge._core import import_path
from bridge._core.errors import ArgumentError
from bridge._core.function_protocols import ExecuteInto, RebuildableFunction
from bridge._core.op import Op, Specs
from bridge._core.spec import ArraySpec
from bridge._targets.jax.calls import Callee


def key_for(op: Op, callee: Callee, operands: Specs) -> str:
    """Return the name of an Op for these operands; raise if other processes could not find it."""
    if callee.export_key is None:
        raise _no_key_error(op, "it is not a function that bridge has wrapped")
    try:
        export_key = callee.export_key()
    except ArgumentError as error:
        raise _no_key_error(op, str(error)) from None
    ops = callee.root.derive_chain(op.derivation)
    if any(
        derived.traits.fingerprint is None
        and not derived.traits.reruns
        and (derived.rules.forward_backward or derived.traits.dependencies)
        for derived in ops
    ):
        raise _no_key_error(op, "nothing would tell whether it has changed")
    parts = [
        *export_key,
        op.derivation,
        _specs_as_lists(operands),
        _specs_as_lists(op.output_specs()),
        _digest(ops),
    ]
    return json.dumps([op.name, *parts], separators=(",", ":"))


def _no_key_error(op: Op, why: str) -> ArgumentError:
    return ArgumentError(f"{op.name} has no name that another process could find it by: {why}.")


def op_for(name: str) -> tuple[Op, ExecuteInto, Specs]:
    """Rebuild the Op of this name; return also what executes it and the specs of its operands."""
    _, path, trace_context, arguments, derivation, operands, results, digest = json.loads(name)
    try:
        function: RebuildableFunction = import_path.import_object(path)
        rebuild = function.rebuild
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"the program calls {path}, which cannot be imported here as a bridged function: "
            f"{error}"
        ) from error
    with jax.enable_x64(True):  # noqa: FBT003 - else results of 64 bits would be refused
        root, execute_into = rebuild(trace_context, arguments)
        ops = root.derive_chain(_as_tuples(derivation))
    if _specs_as_lists(ops[-1].output_specs()) != results or _digest(ops) != digest:
        raise ArgumentError(
            f"{path} is not what it was when the program that calls it was made: it, or torch, "
            "has changed. Export or compile it again."
        )
    specs = tuple(ArraySpec(tuple(shape), dtype) for dtype, shape in operands)
    return ops[-1], execute_into, specs


def _specs_as_lists(specs: Sequence[ArraySpec]) -> list[Any]:
    return [[spec.dtype, list(spec.shape)] for spec in specs]


def _digest(ops: Sequence[Op]) -> str:
    texts = [op.traits.fingerprint() if op.traits.fingerprint else "" for op in ops]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _as_tuples(x: Any) -> Any:
    return tuple(map(_as_tuples, x)) if isinstance(x, list) else x
