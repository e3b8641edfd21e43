"""What JAX does not document, each with what happens without it; nothing else here uses any."""

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

from bridge._core.errors import NoValuesError


class _Refusing(Trace):
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
# A callback runs on a thread of XLA, or on the one that waits for it, and JAX called there waits
# for threads that wait for the callback: on several devices, from several threads of the user, or
# with large arrays this hangs. JAX has a current trace on each thread, which sees every operation.
def refusing_jax(name: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """What enters a context in which every operation of JAX raises."""
    return functools.partial(set_current_trace, _Refusing(name))


def varying_axes(x: Any) -> frozenset[Any]:
    """The axes of a mesh over which `x`, inside of `jax.shard_map`, is known to vary."""
    kind = getattr(jax.typeof(x), "manual_axis_type", None)
    return getattr(kind, "varying", frozenset())


def result_aval(shape: Sequence[int], dtype: Any, like: Sequence[Any]) -> ShapedArray:
    """The abstract value of a result that varies as the abstract values `like` do."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not like:
        return ShapedArray(tuple(shape), dtype)
    whole = NamedSharding(mesh, PartitionSpec())
    return like[0].update(shape=tuple(shape), dtype=dtype, weak_type=False, sharding=whole)


def match_varying_axes(x: Any, like: Any) -> Any:
    """`x` spread over a mesh as the abstract value `like` is, where types say so."""
    theirs = like.sharding
    if theirs.mesh.are_all_axes_explicit and jax.typeof(x).sharding != theirs:
        return jax.reshard(x, theirs)
    return x


def hold_weakly(*kinds: type) -> None:
    """Let JAX's caches forget parameters of these classes with their last other user.

    Without this name the cache of result shapes keeps the last 2,048 functions alive.
    """
    getattr(util, "weakref_cache_key_types", set[type]()).update(kinds)


def register_dead_code_rule(
    primitive: Primitive, rule: Callable[[Sequence[bool], Any], Any]
) -> None:
    """Let JAX ask `rule`, of the used outputs and an equation, which inputs those need.

    JAX 0.10 passes these two, and later releases the live inputs between them.
    """
    partial_eval.dce_rules[primitive] = lambda used, *rest: rule(used, rest[-1])


def is_exporting(ctx: Any) -> bool:
    """Whether what is lowered is for `jax.export`; without the name JAX itself refuses to."""
    return getattr(ctx.module_context.lowering_parameters, "for_export", False)


def device_count(ctx: Any) -> int:
    """How many devices a program is compiled for, partitioned by hand or by the compiler."""
    context = ctx.module_context.axis_context
    count = getattr(context, "num_devices", None)
    return getattr(getattr(context, "mesh", None), "size", 1) if count is None else count


def with_argument_names(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, an operation, which JAX names where `jax.debug_nans` finds an invalid value.

    Without this mark JAX looks for a smaller operation, calls `run`, and comes back here forever.
    """
    vars(run)["_apply_primitive"] = True
    return run


def jit_is_disabled() -> bool:
    """Whether `jax.jit` does nothing here and now."""
    return getattr(jax.config, _FLAG)


_FLAG = "jax_disable_jit"
