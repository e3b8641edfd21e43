"""What a reader is told about a function of MLX."""

from typing import Any

from bridge._core.description import Description
from bridge._sources.mlx.graph_summary import GraphSummary
from bridge._sources.mlx.residuals import explain_saving


def describe(function: Any) -> Description:
    """Describe a `Function`."""
    summary: GraphSummary | None = function.summary
    remark = "MLX runs the Python of the function on each call, to build its graph."
    if summary and function.settings.compile:
        remark = "compile=True: mx.compile fuses its operations."
    specs = (*function.primals, *function.outputs)
    return Description(
        language="graph of MLX",
        program=lambda: _listing(summary) if summary else "",
        remarks=(remark,),
        residual_reason=lambda *_: explain_saving(summary, specs, function.settings),
    )


def _listing(summary: GraphSummary) -> str:
    """Return a line for each operation: `y_0 = Add(x_0, x_1)`."""
    lines = (
        f"{', '.join(step.outputs)} = {step.name}({', '.join(step.inputs)})"
        for step in summary.operations_in_order
    )
    return "\n".join(lines)
