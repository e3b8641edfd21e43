"""Names of JAX that are not promised, for call sites in programs: traces, shardings, lowering."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import util
from jax.core import ShapedArray, Trace
from jax.extend.core import Primitive, set_current_trace
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec

from bridge._arrays.jax.upstream.modes import CONFIG
from bridge._core.errors import NoValuesError


class _RefusingTrace(Trace):
    """A trace that refuses every operation: NOTE [JAX inside of a callback]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def process_primitive(self, primitive: Any, *_: Any, **__: Any) -> Any:
        raise NoValuesError(
            f"{self.name} runs inside of a JAX computation, and called JAX ({primitive}), which "
            "may wait for that computation forever. Compute what it needs outside and pass it as "
            "an argument, or write that part in the other framework."
        )

    process_custom_jvp_call = process_custom_vjp_call = process_primitive


# NOTE [JAX inside of a callback]
# A callback runs on a thread of XLA, or on one that waits for XLA. If it calls JAX, JAX waits for
# threads that wait for the callback: on several devices, from several threads of the user, or with
# large arrays this hangs. JAX has a current trace on each thread, which sees every operation.
def jax_refuser(name: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Return the function that makes a context in which every operation of JAX raises."""
    return functools.partial(set_current_trace, _RefusingTrace(name))


def varying_axes(x: Any) -> frozenset[Any]:
    """Return the axes of a mesh over which `x`, inside of `jax.shard_map`, is known to vary."""
    axis_type = getattr(jax.typeof(x), "manual_axis_type", None)
    return getattr(axis_type, "varying", frozenset())


def result_aval(shape: Sequence[int], dtype: Any, like: Sequence[Any]) -> ShapedArray:
    """Return the abstract value of a result that varies as the abstract values `like` do."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not like:
        return ShapedArray(tuple(shape), dtype)
    replicated = NamedSharding(mesh, PartitionSpec())
    return like[0].update(shape=tuple(shape), dtype=dtype, weak_type=False, sharding=replicated)


def match_explicit_sharding(x: Any, like: Any) -> Any:
    """Return `x` sharded as the abstract value `like`, if shardings are part of types."""
    sharding = like.sharding
    if sharding.mesh.are_all_axes_explicit and jax.typeof(x).sharding != sharding:
        return jax.reshard(x, sharding)
    return x


def hold_weakly(*kinds: type) -> None:
    """Let JAX's caches hold parameters of these classes weakly.

    Without this name the cache of result shapes keeps the last 2,048 functions alive.
    """
    getattr(util, "weakref_cache_key_types", set[type]()).update(kinds)


def register_dead_code_rule(
    primitive: Primitive, rule: Callable[[Sequence[bool], Any], Any]
) -> None:
    """Let `rule` tell JAX which inputs of an equation its used outputs need.

    JAX 0.10 calls it with the used outputs and the equation; later releases pass the live inputs
    between them.
    """
    partial_eval.dce_rules[primitive] = lambda used, *rest: rule(used, rest[-1])


def is_exporting(ctx: Any) -> bool:
    """Return True while `jax.export` lowers; without this name it refuses our calls."""
    return getattr(ctx.module_context.lowering_parameters, "for_export", False)


def device_count(ctx: Any) -> int:
    """Return how many devices a program is compiled for, partitioned by hand or by the compiler."""
    context = ctx.module_context.axis_context
    count = getattr(context, "num_devices", None)
    return getattr(getattr(context, "mesh", None), "size", 1) if count is None else count


def mark_for_debug_nans(run: Callable[..., Any]) -> Callable[..., Any]:
    """Mark `run` as one operation, which `jax.debug_nans` names when its results are invalid.

    Without this mark JAX looks for a smaller operation, calls `run`, and comes back here forever.
    """
    vars(run)["_apply_primitive"] = True
    return run


def jit_is_disabled() -> bool:
    """Return True while `jax.disable_jit` is in effect."""
    return CONFIG.jax_disable_jit
