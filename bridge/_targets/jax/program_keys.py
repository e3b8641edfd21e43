"""What compiled programs call Ops by, for other processes to find them.

NOTE [names of functions]
A program can reach another process: exported, or in the cache where JAX keeps what it compiled. So
the name of an Op says where to import the function, what it is planned for, which rules to apply,
and what specs the buffers have. It ends with a digest of the graphs along the way, without which a
function that has changed would be called by a program that is made for the old one: with residuals
in other places, say. One without a graph is known by its specs alone, as long as programs depend on
nothing else. A function that cannot be imported has a name that no other process knows.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax

from bridge._core import import_path
from bridge._core.errors import ArgumentError
from bridge._core.op import Op, Specs
from bridge._core.protocols import ExecuteInto, RebuildableFunction
from bridge._core.spec import ArraySpec
from bridge._targets.jax.calls import CallSite


def key_for(op: Op, site: CallSite, operands: Specs) -> str:
    """The name of an Op that takes these operands; raises if it would mean nothing elsewhere."""
    if site.export_key is None:
        raise _no_key_error(op, "it is no function that bridge has wrapped")
    try:
        origin = site.export_key()
    except ArgumentError as error:
        raise _no_key_error(op, str(error)) from None
    row = site.root.replay(op.derivation)
    if any(
        known.fingerprint is None
        and not known.reruns
        and (known.forward_backward or known.dependencies)
        for known in row
    ):
        raise _no_key_error(op, "nothing would tell whether it has changed")
    about = [
        *origin,
        op.derivation,
        _spec_texts(operands),
        _spec_texts(op.output_specs()),
        _digest(row),
    ]
    return json.dumps([op.name, *about], separators=(",", ":"))


def _no_key_error(op: Op, why: str) -> ArgumentError:
    return ArgumentError(f"{op.name} has no name that another process could find it by: {why}.")


def op_for(name: str) -> tuple[Op, ExecuteInto, Specs]:
    """The Op of this name, made anew; what evaluates it, and its operands."""
    _, place, ambient, arguments, steps, operands, results, digest = json.loads(name)
    try:
        function: RebuildableFunction = import_path.import_object(place)
        make = function.rebuild
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"the program calls {place}, which cannot be imported here as a bridged function: "
            f"{error}"
        ) from error
    with jax.enable_x64(True):  # noqa: FBT003 - else results of 64 bits would be refused
        root, fill = make(ambient, arguments)
        row = root.replay(_as_tuples(steps))
    if _spec_texts(row[-1].output_specs()) != results or _digest(row) != digest:
        raise ArgumentError(
            f"{place} is not what it was when the program that calls it was made: it, or torch, "
            "has changed. Export or compile it again."
        )
    return row[-1], fill, tuple(ArraySpec(tuple(shape), dtype) for dtype, shape in operands)


def _spec_texts(specs: Sequence[ArraySpec]) -> list[Any]:
    return [[spec.dtype, list(spec.shape)] for spec in specs]


def _digest(row: Sequence[Op]) -> str:
    texts = [op.fingerprint() if op.fingerprint else "" for op in row]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _as_tuples(x: Any) -> Any:
    return tuple(map(_as_tuples, x)) if isinstance(x, list) else x
