"""What a reader is told about a function of torch."""

from typing import Any

from bridge._core.description import Description
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.torch.code.out_variants import find_out_variants
from bridge._sources.torch.program import Program

_RERUN = (
    "No graph was made of it, so it is rerun on each call and for each derivative; "
    'capture="require" says where it looks at values.'
)


def describe(function: Any) -> Description:
    """Describe a `Function`."""
    program: Program | None = function.program
    if program is None:
        reason = "a function that is rerun gets copies, which it may write to"
        return Description(
            language="graph of ATen operators",
            remarks=(_RERUN,),
            residual_reason=lambda *_: (
                "torch keeps what it recorded, of which an array is the number, or records it again"
            ),
            copies=dict.fromkeys(range(len(function.primals)), reason),
        )
    return Description(
        language="graph of ATen operators",
        program=lambda: _code(program),
        remarks=(
            ['lower="xla": XLA compiles this graph into the program that calls it.']
            if function.settings.exports_graph
            else ()
        ),
        residual_reason=lambda *positions: _residual_reason(function, *positions),
        written_outputs=lambda: _written_outputs(program),
    )


def _residual_reason(function: Any, argnums: Positions, outnums: Positions) -> str:
    """Say why a derivative saves what it saves, or why it saves nothing."""
    try:
        pair = function.forward_backward(argnums, outnums)
    except NoRuleError as error:
        return f"for all of these at once there is none: {error}"
    if pair is None:
        return "its joint graph cannot be split, as where its backward part draws random numbers"
    return "the backward part of its joint graph uses these"


def _code(program: Program) -> str:
    """Return the graph as code, one line for each operator."""
    text = program.module.print_readable(print_output=False)
    lines = [line.removeprefix("    ") for line in text.splitlines()[1:]]
    return "\n".join(line for line in lines if line.strip() and not line.strip().startswith("#"))


def _written_outputs(program: Program) -> Positions:
    """Return the positions of the outputs that are computed in their buffers."""
    graph = program.module.graph
    return tuple(sorted(x.output_position for x in find_out_variants(graph).values()))
