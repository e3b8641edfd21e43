"""The interpreter of graphs, in operations of JAX that XLA compiles with the code around them.

NOTE [64 bits inside]
Graphs of torch are full of 64-bit integers, as positions and sizes. They are computed in 64 bits
even while JAX is in 32-bit mode: the mode is about arrays that users see.
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
from bridge._core.pytree import scatter
from bridge._core.spec import ArraySpec
from bridge._lowering.jax.operators import OutputInfo, cast, find_lowering


def lower(ctx: Any, operands: Sequence[Any], op: Op, graph: Graph | MappedGraph) -> Sequence[Any]:
    """Emit the operations of `op` into a program that is being compiled."""

    def run(*xs: Any) -> list[Any]:
        with jax.named_scope(op.name):
            return execute(graph, xs, op.name)

    inputs = zip(graph.inputs, ctx.avals_in, strict=True)
    # An input that nothing depends on, as a cotangent, may have no spec in a graph of torch.
    avals = [ShapedArray(x.shape, jnp.dtype(x.dtype)) if x else aval for x, aval in inputs]
    # Torch has decided how shapes and dtypes are promoted, so the user's settings do not apply.
    ranks, dtypes = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with ranks, dtypes, jax.enable_x64(new_val=True):  # NOTE [64 bits inside]
        return mlir.lower_fun(run)(dataclasses.replace(ctx, avals_in=avals), *operands)


def execute(graph: Graph | MappedGraph, xs: Sequence[Any], name: str) -> list[Any]:
    """Execute a graph on arrays; return its outputs."""
    if isinstance(graph, MappedGraph):
        return _execute_mapped(graph, xs, name)
    key = None if graph.rng_input is None else _make_key(xs[graph.rng_input])
    return _execute_graph(graph, xs, _Caller(name, key))


def _execute_mapped(graph: MappedGraph, xs: Sequence[Any], name: str) -> list[Any]:
    """Execute the graph of one example for all examples of a batch."""
    mapped = {i: axis for i, axis in enumerate(graph.in_axes) if axis is not None}
    batch = [jnp.moveaxis(xs[i], axis, 0) for i, axis in mapped.items()]

    def execute_example(example: Sequence[Any]) -> list[Any]:
        return execute(graph.example, scatter(example, tuple(mapped), xs), name)

    if not mapped:
        outputs = jax.vmap(lambda _: execute_example([]))(jnp.zeros(graph.size))
    elif graph.rng_input in mapped:  # under vmap, the kind of key decides what a batch draws
        outputs = jax.lax.map(execute_example, batch)
    else:
        outputs = jax.vmap(execute_example)(batch)
    return [_move_or_sum(y, axis) for y, axis in zip(outputs, graph.out_axes, strict=True)]


def _move_or_sum(y: Any, axis: int | None) -> Any:
    """Move the axis of the examples to `axis`, or sum over it."""
    if y is None:
        return None
    return y.sum(0, dtype=y.dtype) if axis is None else jnp.moveaxis(y, 0, axis)


@dataclasses.dataclass(frozen=True)
class _Caller:
    """What a graph is executed for.

    Attributes:
        function_name: The name of the function.
        rng_key: The key that random numbers follow from, if there is one.
        within: The operators that are being decomposed, from the outside in.
    """

    function_name: str
    rng_key: Any = None
    within: tuple[str, ...] = ()


def _make_key(seed: Any) -> Any:
    """Make a key from the integers of a seed."""
    key = jax.random.key(0)
    for word in jnp.ravel(seed):
        key = jax.random.fold_in(key, word.astype("uint32"))
    return key


def _execute_graph(graph: Graph, xs: Sequence[Any], caller: _Caller) -> list[Any]:
    # In the order that `ValueRef.value_index` counts.
    values: list[Any] = [*xs, *map(jnp.asarray, graph.constants)]
    for operation in graph.operations:
        values.append(_execute_operation(operation, values, caller))
    return [_resolve(ref, values) for ref in graph.outputs]


def _resolve(x: Any, values: Sequence[Any]) -> Any:
    """Return `x` with the arrays that its `ValueRef`s refer to."""
    if isinstance(x, ValueRef):
        value = values[x.value_index]
        return value if x.output_index is None else value[x.output_index]
    return tuple(_resolve(item, values) for item in x) if isinstance(x, tuple) else x


def _execute_operation(operation: Operation, values: Sequence[Any], caller: _Caller) -> Any:
    """Compute the result of an operation, an array or a list of arrays."""
    output_specs, name = operation.output_specs, operation.operator
    specs = output_specs if isinstance(output_specs, tuple) else (output_specs,)
    key = _operation_rng_key(operation, caller)
    compute = find_lowering(name)
    if compute is None:
        outputs = _execute_decomposed(operation, values, dataclasses.replace(caller, rng_key=key))
    else:
        args = _resolve(operation.args, values)
        kwargs = {key: _resolve(x, values) for key, x in operation.kwargs.items()}
        result = compute(OutputInfo(specs, key), *args, **kwargs)
        outputs = result if isinstance(result, (tuple, list)) else [result]
    title = _title(name, caller)
    if len(outputs) != len(specs):
        raise ArgumentError(f"{title} has {len(outputs)} results, not {len(specs)}.")
    arrays = [_match_spec(x, spec, title) for x, spec in zip(outputs, specs, strict=True)]
    return arrays if isinstance(output_specs, tuple) else arrays[0]


def _operation_rng_key(operation: Operation, caller: _Caller) -> Any:
    """Return the key of the random numbers that an operation draws, if it draws any."""
    if operation.rng_index is None:
        return None
    if caller.rng_key is None:
        raise NoRuleError(
            f"{_title(operation.operator, caller)} draws random numbers that follow from no "
            "key: those of a derivative or of a batch, say. Draw them in the function itself."
        )
    return jax.random.fold_in(caller.rng_key, operation.rng_index)


def _execute_decomposed(
    operation: Operation, values: Sequence[Any], caller: _Caller
) -> Sequence[Any]:
    """Compute the results of an operator by the operators that torch decomposes it into."""
    name = operation.operator
    graph = None if name in caller.within else operation.decompose()
    if graph is None:
        outermost = (*caller.within, name)[0]
        because = f" for want of {name}, which torch makes it of" if caller.within else ""
        raise NoRuleError(
            f"the operator {outermost} of {caller.function_name} cannot be compiled{because}. "
            f'Say how it is computed, with @bridge.register_lowering("{outermost}") above a '
            "function of JAX arrays that takes what the operator takes, or let torch compute with "
            'lower="ffi".'
        )
    xs = [_resolve(ref, values) for ref in operation.operands]
    return _execute_graph(graph, xs, dataclasses.replace(caller, within=(*caller.within, name)))


def _title(operator: str, caller: _Caller) -> str:
    within = f", in {caller.within[0]}" if caller.within else ""
    return f"the operator {operator} of {caller.function_name}{within}"


def _match_spec(x: Any, spec: ArraySpec | None, title: str) -> Any:
    """Cast a result to the dtype that torch says; raise if it has another shape."""
    if spec is None:
        return None
    if jnp.shape(x) != spec.shape:
        raise ArgumentError(
            f"{title} has a result of shape {list(jnp.shape(x))}, and torch says that it is {spec}."
        )
    return cast(x, spec.dtype)
