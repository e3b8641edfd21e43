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
from bridge._core.protocols import Fill, Found
from bridge._core.spec import ArraySpec
from bridge._targets.jax.calls import Site


def named(op: Op, site: Site, operands: Specs) -> str:
    """The name of an Op that takes these operands; raises if it would mean nothing elsewhere."""
    if site.origin is None:
        raise _unnamed(op, "it is no function that bridge has wrapped")
    try:
        origin = site.origin()
    except ArgumentError as error:
        raise _unnamed(op, str(error)) from None
    row = site.root.followed(op.steps)
    if any(known.text is None and not known.anew and (known.split or known.reach) for known in row):
        raise _unnamed(op, "nothing would tell whether it has changed")
    about = [*origin, op.steps, _texts(operands), _texts(op.specs()), _digest(row)]
    return json.dumps([op.name, *about], separators=(",", ":"))


def _unnamed(op: Op, why: str) -> ArgumentError:
    return ArgumentError(f"{op.name} has no name that another process could find it by: {why}.")


def found(name: str) -> tuple[Op, Fill, Specs]:
    """The Op of this name, made anew; what evaluates it, and its operands."""
    _, place, ambient, arguments, steps, operands, results, digest = json.loads(name)
    try:
        function: Found = import_path.find(place)
        make = function.made_again
    except (ImportError, AttributeError) as error:
        raise ArgumentError(
            f"the program calls {place}, which cannot be imported here as a bridged function: "
            f"{error}"
        ) from error
    with jax.enable_x64(True):  # noqa: FBT003 - else results of 64 bits would be refused
        root, fill = make(ambient, arguments)
        row = root.followed(_tuples(steps))
    if _texts(row[-1].specs()) != results or _digest(row) != digest:
        raise ArgumentError(
            f"{place} is not what it was when the program that calls it was made: it, or torch, "
            "has changed. Export or compile it again."
        )
    return row[-1], fill, tuple(ArraySpec(tuple(shape), dtype) for dtype, shape in operands)


def _texts(specs: Sequence[ArraySpec]) -> list[Any]:
    return [[spec.dtype, list(spec.shape)] for spec in specs]


def _digest(row: Sequence[Op]) -> str:
    texts = [op.text() if op.text else "" for op in row]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:32]


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x
