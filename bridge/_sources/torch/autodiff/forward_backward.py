"""Forward/backward pairs of captured functions: the forward saves residuals for the backward."""

import dataclasses
import functools

from bridge._core.errors import NoRuleError
from bridge._core.op import Axes, ForwardBackward, Op, Positions, Rules, Specs, Traits
from bridge._core.spec import batched_specs
from bridge._sources.torch.autodiff.partition import (
    ForwardBackwardGraphs,
    partition,
    select_gradients,
)
from bridge._sources.torch.autodiff.transforms import vmapped
from bridge._sources.torch.batching.loop_vmap import has_seed_per_example, loop_op
from bridge._sources.torch.batching.rng_consistency import RNG_MISMATCH, same_as_unbatched
from bridge._sources.torch.capture.environment import Fun
from bridge._sources.torch.capture.graph import is_random
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import make_program, trace, trace_joint
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into
from bridge._sources.torch.state.versions import (
    captured_tensors,
    checking_versions,
    returning_versions,
)


def make_forward_backward(
    fun: Fun,
    name: str,
    primals: Specs,
    argnums: Positions,
    outnums: Positions,
    *,
    settings: Settings,
) -> ForwardBackward | None:
    """Make the pair of `fun` for gradients of arguments at `argnums` by outputs at `outnums`.

    Return `None` if the backward draws random numbers, since only the forward has the seed.
    """
    joint, recorded = trace_joint(fun, primals, argnums, outnums, name=name, settings=settings)
    graphs = partition(joint, len(primals), [i in recorded for i in outnums])
    if any(map(is_random, graphs.backward.graph.nodes)):
        return None
    first = make_program(graphs.forward)
    count = len(first.outputs) - graphs.residual_count
    residual_specs = _residual_specs(graphs, primals, first.outputs)
    inputs = (*residual_specs, *(first.outputs[i] for i in outnums))
    # In an exported graph, captured tensors are constant.
    constants = () if settings.exports_graph else captured_tensors(graphs.backward)

    unseeded = dataclasses.replace(settings, seed_argnum=None)

    @functools.cache
    def backward(argnums: Positions) -> Op:
        selected = select_gradients(graphs.backward, argnums, [primals[i] for i in argnums])
        op = make_half(make_program(selected), f"{name}.backward", inputs, unseeded)
        return checking_versions(op, constants, len(residual_specs), name) if constants else op

    forward = make_half(first, f"{name}.forward", primals, settings)
    return ForwardBackward(
        strategy="save",
        forward=returning_versions(forward, constants) if constants else forward,
        backward=backward,
        output_count=count,
        saved_primals=graphs.saved_primals,
        saved_outputs=graphs.saved_outputs,
    )


def _residual_specs(graphs: ForwardBackwardGraphs, primals: Specs, outputs: Specs) -> Specs:
    """Return the specs of what the backward takes before its cotangents."""
    return (
        *(primals[i] for i in graphs.saved_primals),
        *(outputs[i] for i in graphs.saved_outputs),
        *outputs[len(outputs) - graphs.residual_count :],
    )


def make_half(program: Program, name: str, primals: Specs, settings: Settings) -> Op:
    """Make a half of a pair: an Op that can be batched, but not differentiated."""
    return Op(
        name=name,
        framework="torch",
        call=make_call(program, settings),
        output_specs=lambda *_: program.outputs,
        rules=Rules(
            vmap=lambda axes, size: _batch_half(program, name, primals, settings, axes, size)
        ),
        traits=Traits(
            call_into=make_call_into(program, settings),
            dependencies=program.dependencies,
            fingerprint=program.fingerprint,
            graph=export_graph(program, settings),
        ),
    )


def _batch_half(
    program: Program, name: str, primals: Specs, settings: Settings, axes: Axes, size: int
) -> Op:
    """Make the batched form of a half; raise if its random numbers would differ."""
    seed_argnum = settings.seed_argnum
    if program.uses_rng and has_seed_per_example(settings, axes):
        return loop_op(make_half(program, name, primals, settings), axes, size)
    fun = vmapped(
        program.run_for_batches, axes, size, "different" if seed_argnum is None else "same"
    )
    batched_primals = batched_specs(primals, axes, size)
    try:
        batched = trace(fun, batched_primals, name=f"{name}.vmap", settings=settings)
    except RuntimeError as error:
        raise NoRuleError(f"torch cannot batch {name}: {error}") from error
    op = make_half(batched, f"{name}.vmap", batched_primals, settings)
    if program.uses_rng and seed_argnum is not None:
        one = make_half(program, name, primals, settings)
        if not same_as_unbatched(one, op, axes, primals=batched_primals, seed_argnum=seed_argnum):
            raise NoRuleError(f"torch cannot batch {name}: {RNG_MISMATCH}")
    return op
