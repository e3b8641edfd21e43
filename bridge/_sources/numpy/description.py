"""What a reader is told about a function without autodiff."""

from typing import Any

from bridge._core.description import Description
from bridge._core.op import Positions


def describe(function: Any) -> Description:
    """Describe a `Function`."""
    box = function.box
    reason = "a function on NumPy arrays gets copies, which it may write to"
    evaluated = "It is evaluated on each call, and for derivatives at the points of a rule."

    def residual_reason(argnums: Positions, _: Positions) -> str:
        return "; ".join(f"{box.argument_names[i]} by {box.rules[i]!r}" for i in argnums)

    return Description(
        language="code on NumPy arrays",
        remarks=(evaluated,),
        residual_reason=residual_reason,
        copies=dict.fromkeys(range(len(box.primals)), reason),
    )
