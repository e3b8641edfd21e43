"""Listings as code of JAX, which XLA compiles with what is around it.

NOTE [64 bits inside]
Graphs of torch are full of 64-bit integers, as positions and sizes. They are computed as such even
while JAX is in 32-bit mode: what its mode forbids are 64-bit arrays that users see.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import mlir

from bridge._core.errors import ArgumentError, NoRuleError
from bridge._core.graph import Graph, MappedGraph, Operation, ValueRef
from bridge._core.op import Op
from bridge._core.pytree import replace_at
from bridge._core.spec import ArraySpec
from bridge._lowering.jax.operators import OutputInfo, cast, find_lowering


def lower(ctx: Any, operands: Sequence[Any], op: Op, listing: Graph | MappedGraph) -> Sequence[Any]:
    """The instructions of `op` in a program that is being compiled."""

    def run(*xs: Any) -> list[Any]:
        with jax.named_scope(op.name):
            return evaluate(listing, xs, op.name)

    given = zip(listing.inputs, ctx.avals_in, strict=True)
    # A cotangent that nothing depends on is no array in a graph of torch.
    avals = [ShapedArray(x.shape, jnp.dtype(x.dtype)) if x else aval for x, aval in given]
    # Which shapes and dtypes go together has been settled by torch, whatever JAX is set to.
    ranks, dtypes = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with ranks, dtypes, jax.enable_x64(new_val=True):  # NOTE [64 bits inside]
        return mlir.lower_fun(run)(dataclasses.replace(ctx, avals_in=avals), *operands)


def evaluate(listing: Graph | MappedGraph, xs: Sequence[Any], name: str) -> list[Any]:
    """The outputs of a listing for arrays."""
    if isinstance(listing, MappedGraph):
        return _evaluate_mapped(listing, xs, name)
    key = None if listing.rng_input is None else _key(xs[listing.rng_input])
    return _run(listing, xs, _Caller(name, key))


def _evaluate_mapped(listing: MappedGraph, xs: Sequence[Any], name: str) -> list[Any]:
    """The outputs of a listing of one example for all of them."""
    mapped = {i: axis for i, axis in enumerate(listing.in_axes) if axis is not None}
    rows = [jnp.moveaxis(xs[i], axis, 0) for i, axis in mapped.items()]

    def one(each: Sequence[Any]) -> list[Any]:
        return evaluate(listing.example, replace_at(each, tuple(mapped), xs), name)

    if not mapped:
        columns = jax.vmap(lambda _: one([]))(jnp.zeros(listing.size))
    elif listing.rng_input in mapped:  # what a batch of keys draws is up to the kind of keys
        columns = jax.lax.map(one, rows)
    else:
        columns = jax.vmap(one)(rows)
    return [_onto(y, axis) for y, axis in zip(columns, listing.out_axes, strict=True)]


def _onto(y: Any, axis: int | None) -> Any:
    """A result of all examples with these at `axis`, or their sum."""
    if y is None:
        return None
    return y.sum(0, dtype=y.dtype) if axis is None else jnp.moveaxis(y, 0, axis)


@dataclasses.dataclass(frozen=True)
class _Caller:
    """What instructions belong to: a function, its key, the operators that they are parts of."""

    name: str
    key: Any = None
    within: tuple[str, ...] = ()


def _key(seed: Any) -> Any:
    """A key for what is drawn, from the integers of a seed."""
    key = jax.random.key(0)
    for word in jnp.ravel(seed):
        key = jax.random.fold_in(key, word.astype("uint32"))
    return key


def _run(listing: Graph, xs: Sequence[Any], caller: _Caller) -> list[Any]:
    found: list[Any] = [*xs, *map(jnp.asarray, listing.constants)]
    for instruction in listing.operations:
        found.append(_result(instruction, found, caller))
    return [_fill_in(value, found) for value in listing.outputs]


def _fill_in(x: Any, found: Sequence[Any]) -> Any:
    """`x` with arrays instead of values."""
    if isinstance(x, ValueRef):
        return found[x.index] if x.output_index is None else found[x.index][x.output_index]
    return tuple(_fill_in(item, found) for item in x) if isinstance(x, tuple) else x


def _result(instruction: Operation, found: Sequence[Any], caller: _Caller) -> Any:
    """The array, or the arrays, that an instruction computes."""
    made, name = instruction.output_specs, instruction.operator
    specs = made if isinstance(made, tuple) else (made,)
    key = _run_random(instruction, caller)
    compute = find_lowering(name)
    if compute is None:
        row = _run_decomposed(instruction, found, dataclasses.replace(caller, key=key))
    else:
        args = _fill_in(instruction.args, found)
        kwargs = {key: _fill_in(x, found) for key, x in instruction.kwargs.items()}
        results = compute(OutputInfo(specs, key), *args, **kwargs)
        row = results if isinstance(results, (tuple, list)) else [results]
    if len(row) != len(specs):
        raise ArgumentError(f"{_where(name, caller)} has {len(row)} results, not {len(specs)}.")
    held = [_held(x, spec, _where(name, caller)) for x, spec in zip(row, specs, strict=True)]
    return held if isinstance(made, tuple) else held[0]


def _run_random(instruction: Operation, caller: _Caller) -> Any:
    """The key of what an operator draws."""
    if instruction.rng_index is None:
        return None
    if caller.key is None:
        raise NoRuleError(
            f"{_where(instruction.operator, caller)} draws random numbers that follow from no "
            "key: those of a derivative or of a batch, say. Draw them in the function itself."
        )
    return jax.random.fold_in(caller.key, instruction.rng_index)


def _run_decomposed(instruction: Operation, found: Sequence[Any], caller: _Caller) -> Sequence[Any]:
    """The results of an operator by those that it is made of."""
    name = instruction.operator
    parts = None if name in caller.within else instruction.decompose()
    if parts is None:
        whole = (*caller.within, name)[0]
        because = f" for want of {name}, which torch makes it of" if caller.within else ""
        raise NoRuleError(
            f"the operator {whole} of {caller.name} cannot be compiled{because}. Say how it is "
            f'computed, with @bridge.register_lowering("{whole}") above a function of JAX arrays '
            'that takes what the operator takes, or let torch compute with lower="ffi".'
        )
    xs = [_fill_in(value, found) for value in instruction.operands]
    return _run(parts, xs, dataclasses.replace(caller, within=(*caller.within, name)))


def _where(operator: str, caller: _Caller) -> str:
    within = f", in {caller.within[0]}" if caller.within else ""
    return f"the operator {operator} of {caller.name}{within}"


def _held(x: Any, spec: ArraySpec | None, where: str) -> Any:
    """A result in the dtype that torch says; raises if it has another shape."""
    if spec is None:
        return None
    if jnp.shape(x) != spec.shape:
        raise ArgumentError(
            f"{where} has a result of shape {list(jnp.shape(x))}, and torch says that it is {spec}."
        )
    return cast(x, spec.dtype)
