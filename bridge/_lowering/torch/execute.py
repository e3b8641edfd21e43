"""The execution of Ops of another framework as code of torch."""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS, in_dispatch_mode
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph
from bridge._core.op import Arrays, Op, OpCache
from bridge._core.spec import ArraySpec
from bridge._lowering.program import Program
from bridge._lowering.torch.carriers import carried, released
from bridge._lowering.torch.operations import OPERATIONS

_PROGRAMS = OpCache()


def execute_lowered(op: Op, xs: Sequence[Any]) -> Arrays:
    """Compute an Op by the operators of torch that its graph becomes."""
    program = _PROGRAMS.of(op).get("program")
    if program is None:
        program = _PROGRAMS.of(op).setdefault("program", _make_program(op))
    device = next((x.device for x in xs if isinstance(x, torch.Tensor)), torch.device("cpu"))
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        with torch.autocast(device.type, enabled=False):
            return _run(program, xs, device)
    return _run(program, xs, device)


def _run(program: Program, xs: Sequence[Any], device: torch.device) -> Arrays:
    graph = program.graph
    pairs = zip(xs, graph.inputs, strict=True)
    inputs = [carried(_as_tensor(x, spec, device), spec.dtype) for x, spec in pairs]
    if in_dispatch_mode():
        like = inputs[0] if inputs else OPERATIONS.anchor(str(device))
        outputs = program.record(inputs, like)
    else:
        outputs = program(inputs, device=str(device))
    results = map(released, outputs, program.output_dtypes)
    return (
        tuple(refuse_gradients(y) for y in results)
        if torch.compiler.is_exporting()
        else (*results,)
    )


def _make_program(op: Op) -> Program:
    graph = op.traits.graph and op.traits.graph()
    if not isinstance(graph, Graph):
        raise NoRuleError(
            f"`{op.name}` has no graph that could become code of torch. Leave out lower=, so that "
            f"{op.framework} computes."
        )
    return Program(graph, OPERATIONS, op.name)


def _as_tensor(x: Any, spec: ArraySpec, device: torch.device) -> torch.Tensor:
    """Return an argument, which may be a number or an array of another framework, as a tensor."""
    dtype = getattr(torch, spec.dtype)
    if isinstance(x, (int, float, complex)):
        return torch.full((), x, dtype=dtype, device=device)
    if not isinstance(x, torch.Tensor):
        x = ARRAYS.convert(x, copy=None).to(device)
    return x if x.dtype == dtype else x.to(dtype)


# NOTE [no gradient in exported programs]
# `torch.export` records the operators that compute values, and a gradient of the program would be
# torch's own of these, which is another one where the function has rules of its own: silently.
# So results are selected by operators among which is one without a derivative, which torch names
# in an error. Gradients are exported by exporting a function that computes them.
def refuse_gradients(y: torch.Tensor) -> torch.Tensor:
    """Return `y` so that a backward pass through it raises."""
    if not (y.is_floating_point() or y.is_complex()):
        return y
    first = torch.view_as_real(y) if y.is_complex() else y
    other = torch.special.zeta(first.reshape(-1)[:1].sum().to(torch.float32), 2.0).to(first.dtype)
    always = torch.ones((), dtype=torch.bool, device=y.device)
    return torch.where(always, y, other.to(y.dtype))
