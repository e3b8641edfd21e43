"""The graph of an Op of JAX, with the conversions of integers at its boundary."""

import dataclasses
from collections.abc import Sequence

from bridge._core.graph import Graph
from bridge._core.op import Specs
from bridge._core.spec import NARROW_INTEGERS
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.listing.builder import GraphBuilder
from bridge._sources.jax.listing.graph import Part, value_spec
from bridge._sources.jax.trace import Program
from bridge._sources.jax.x64_boundary import external_specs, narrowed_positions


def list_program(
    program: Program,
    name: str,
    primals: Specs,
    environment: Environment,
    *,
    labels: Sequence[str] = (),
    widened_count: int | None = None,
) -> Graph:
    """Return the graph of what `with_narrowed_integers` makes of a program."""
    narrowed = narrowed_positions(primals, x64=environment.x64)
    jaxpr = program.jaxpr
    inner = [value_spec(var.aval) for var in jaxpr.jaxpr.invars]
    outer = [
        dataclasses.replace(spec, dtype=primals[i].dtype) if i in narrowed else spec
        for i, spec in enumerate(inner)
    ]
    with environment():
        builder = GraphBuilder(outer)
        values = list(builder.inputs)
        for i in narrowed:
            label = labels[i] if i < len(labels) else "an argument"
            spec = dataclasses.replace(outer[i], dtype=NARROW_INTEGERS[outer[i].dtype])
            values[i] = builder.add("narrow_integers", [values[i]], [spec], label=label)[0]
        part = Part(name, builder)
        outputs = part.inline_closed(jaxpr, values)
    specs = external_specs(program.outputs, primals, x64=environment.x64)[:widened_count]
    for i, spec in enumerate(specs):
        if outputs[i].spec.dtype != spec.dtype:
            wide = dataclasses.replace(outputs[i].spec, dtype=spec.dtype)
            outputs[i] = builder.add("convert_element_type", [outputs[i]], [wide])[0]
    return builder.build(outputs)
