"""Loops and branches, whose bodies are graphs."""

from collections.abc import Callable
from typing import Any

from bridge._core.graph import Graph
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction

Compute = Callable[..., Any]


def make_run(graph: Graph, i: Instruction, f: Operations) -> Callable[..., list[Any]]:
    """Return a body as a function of arrays."""
    from bridge._lowering.program import Program  # which asks for rules, as this one

    if not i.inputs:
        raise i.refuse("it has no operands, so that a device for it is not known.")
    program = Program(graph, f, i.function_name)
    return lambda like, xs: program.run(xs, like)


def _scan(i: Instruction, f: Operations) -> Compute:
    body, graph = make_run(i["body"], i, f), i["body"]
    constant_count, carry_count = i["constant_count"], i["carry_count"]
    split = constant_count + carry_count

    def scan(*xs: Any) -> Any:
        return f.scan(
            body,
            graph,
            xs[:constant_count],
            xs[constant_count:split],
            xs[split:],
            length=i["length"],
            reverse=i["reverse"],
        )

    return scan


def _while(i: Instruction, f: Operations) -> Compute:
    condition, body = make_run(i["condition"], i, f), make_run(i["body"], i, f)
    first, second = i["condition_constants"], i["body_constants"]

    def loop(*xs: Any) -> Any:
        carry = xs[first + second :]
        return f.loop(condition, body, xs[:first], xs[first : first + second], carry)

    return loop


def _cond(i: Instruction, f: Operations) -> Compute:
    branches = [make_run(branch, i, f) for branch in i["branches"]]
    specs = i.outputs
    return lambda index, *xs: f.branch(index, branches, xs, specs)


RULES = {"scan": _scan, "while": _while, "cond": _cond}
