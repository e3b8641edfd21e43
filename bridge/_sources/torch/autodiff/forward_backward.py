"""The first derivative of a function in two halves, with what the first keeps for the second."""

import dataclasses
import functools

from bridge._core.errors import NoRuleError
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._sources.torch.autodiff.partition import partition, select_gradients
from bridge._sources.torch.autodiff.transforms import vmapped
from bridge._sources.torch.batching.loop_vmap import (
    Axes,
    batched_specs,
    has_seed_per_example,
    loop_op,
)
from bridge._sources.torch.batching.rng_consistency import RNG_MISMATCH, same_examples
from bridge._sources.torch.capture.graph import is_random
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import Fun, make_program, trace, trace_joint
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into
from bridge._sources.torch.state.versions import captured_tensors, checking_versions, with_versions


def make_forward_backward(
    fun: Fun,
    name: str,
    primals: Specs,
    argnums: Positions,
    outnums: Positions,
    *,
    settings: Settings,
) -> ForwardBackward | None:
    """The outputs of `fun` at `outnums`, differentiated by its arguments at `argnums`.

    `None` if the second half draws random numbers, which follow from the seed of the first.
    """
    joint, flows = trace_joint(fun, primals, argnums, outnums, name=name, settings=settings)
    halves = partition(joint, len(primals), [i in flows for i in outnums])
    if any(map(is_random, halves.backward.graph.nodes)):
        return None
    first = make_program(halves.forward)
    count = len(first.outputs) - halves.residuals
    kept = (
        *(primals[i] for i in halves.kept_primals),
        *(first.outputs[i] for i in halves.kept_outputs),
        *first.outputs[count:],
        *(first.outputs[i] for i in outnums),
    )

    # Where Ops are written out, what a function captures is constant.
    constants = () if settings.exports_graph else captured_tensors(halves.backward)
    at = len(kept) - len(outnums)  # after the other residuals

    @functools.cache
    def backward(argnums: Positions) -> Op:
        specs = [primals[i] for i in argnums]
        chosen = make_program(select_gradients(halves.backward, argnums, specs))
        op = make_half(chosen, f"{name}.backward", kept, dataclasses.replace(settings, seed=None))
        return checking_versions(op, constants, at, name) if constants else op

    forward = make_half(first, f"{name}.forward", primals, settings)
    return ForwardBackward(
        strategy="save",
        forward=with_versions(forward, constants) if constants else forward,
        backward=backward,
        output_count=count,
        saved_primals=halves.kept_primals,
        saved_outputs=halves.kept_outputs,
    )


def make_half(found: Program, name: str, primals: Specs, settings: Settings) -> Op:
    """A graph as an Op that can be batched; what is differentiated again is the whole."""
    seed = settings.seed

    def vmap(axes: Axes, size: int) -> Op:
        if found.uses_rng and has_seed_per_example(settings, axes):
            return loop_op(make_half(found, name, primals, settings), axes, size)
        fun = vmapped(found.run, axes, size, "different" if seed is None else "same")
        larger = batched_specs(primals, axes, size)
        try:
            batched = trace(fun, larger, name=f"{name}.vmap", settings=settings)
        except RuntimeError as error:
            raise NoRuleError(f"torch cannot batch {name}: {error}") from error
        found_batched = make_half(batched, f"{name}.vmap", larger, settings)
        if found.uses_rng and seed is not None:
            alone = make_half(found, name, primals, settings)
            if not same_examples(alone, found_batched, axes, primals=larger, seed=seed):
                raise NoRuleError(f"torch cannot batch {name}: {RNG_MISMATCH}")
        return found_batched

    return Op(
        name=name,
        framework="torch",
        call=make_call(found, settings),
        call_into=make_call_into(found, settings),
        output_specs=lambda *_: found.outputs,
        vmap=vmap,
        dependencies=found.dependencies,
        fingerprint=found.fingerprint,
        graph=export_graph(found, settings),
    )
