"""The first derivative of a function in two halves, with what the first keeps for the second."""

import dataclasses
import functools

from bridge._core.errors import NoRuleError
from bridge._core.op import Op, Positions, Specs, Split
from bridge._sources.torch.autodiff.partition import partition, selected
from bridge._sources.torch.autodiff.transforms import mapped
from bridge._sources.torch.batching.loop_vmap import Axes, each, grown, seeds_differ
from bridge._sources.torch.batching.rng_consistency import OTHER_DRAWS, same_examples
from bridge._sources.torch.capture.graph import draws
from bridge._sources.torch.capture.graph_export import listed
from bridge._sources.torch.capture.trace import Fun, program, trace, trace_joint
from bridge._sources.torch.program import Program, Settings, executed, written
from bridge._sources.torch.state.versions import captured, checking, remembering


def split(
    fun: Fun, name: str, primals: Specs, wanted: Positions, given: Positions, *, settings: Settings
) -> Split | None:
    """The outputs of `fun` at `given`, differentiated by its arguments at `wanted`.

    `None` if the second half draws random numbers, which follow from the seed of the first.
    """
    joint, flows = trace_joint(fun, primals, wanted, given, name=name, settings=settings)
    halves = partition(joint, len(primals), [i in flows for i in given])
    if any(map(draws, halves.backward.graph.nodes)):
        return None
    first = program(halves.forward)
    count = len(first.outputs) - halves.residuals
    kept = (
        *(primals[i] for i in halves.kept_primals),
        *(first.outputs[i] for i in halves.kept_outputs),
        *first.outputs[count:],
        *(first.outputs[i] for i in given),
    )

    # Where Ops are written out, what a function captures is constant.
    constants = () if settings.listed else captured(halves.backward)
    at = len(kept) - len(given)  # after the other residuals

    @functools.cache
    def backward(needed: Positions) -> Op:
        specs = [primals[i] for i in needed]
        chosen = program(selected(halves.backward, needed, specs))
        op = half(chosen, f"{name}.backward", kept, dataclasses.replace(settings, seed=None))
        return checking(op, constants, at, name) if constants else op

    forward = half(first, f"{name}.forward", primals, settings)
    return Split(
        way="save",
        forward=remembering(forward, constants) if constants else forward,
        backward=backward,
        outputs=count,
        kept_primals=halves.kept_primals,
        kept_outputs=halves.kept_outputs,
    )


def half(found: Program, name: str, primals: Specs, settings: Settings) -> Op:
    """A graph as an Op that can be batched; what is differentiated again is the whole."""
    seed = settings.seed

    def vmap(axes: Axes, size: int) -> Op:
        if found.draws and seeds_differ(settings, axes):
            return each(half(found, name, primals, settings), axes, size)
        fun = mapped(found.run, axes, size, "different" if seed is None else "same")
        larger = grown(primals, axes, size)
        try:
            batched = trace(fun, larger, name=f"{name}.vmap", settings=settings)
        except RuntimeError as error:
            raise NoRuleError(f"torch cannot batch {name}: {error}") from error
        found_batched = half(batched, f"{name}.vmap", larger, settings)
        if found.draws and seed is not None:
            alone = half(found, name, primals, settings)
            if not same_examples(alone, found_batched, axes, primals=larger, seed=seed):
                raise NoRuleError(f"torch cannot batch {name}: {OTHER_DRAWS}")
        return found_batched

    return Op(
        name=name,
        home="torch",
        call=executed(found, settings),
        into=written(found, settings),
        specs=lambda *_: found.outputs,
        vmap=vmap,
        reach=found.reach,
        text=found.text,
        listing=listed(found, settings),
    )
