"""The last trace of a module with a key, for the call that is repeated with one."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge._core.function_protocols import StructuredFunction
from bridge._core.op import Specs
from bridge._core.protocols import SEED
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.trace import Program

_thread = threading.local()


@dataclasses.dataclass(frozen=True, eq=False)
class TracedCall:
    """A call of a function of flat arrays under settings, and its trace.

    Attributes:
        fn: The function.
        primals: The specs of its arrays.
        environment: The settings.
        labels: The names of its arrays, each another.
        program: The trace, with the data of a key as the last argument; None if there is none yet.
    """

    fn: StructuredFunction
    primals: Specs
    environment: Environment
    labels: Sequence[str]
    program: Program | None = None

    def describe(self) -> tuple[Any, ...]:
        """Return what the trace depends on, without a key among the arguments."""
        args, kwargs = self.fn.arguments.unflatten(self.labels)
        kwargs = {name: value for name, value in kwargs.items() if name != SEED}
        leaves, structure = jax.tree_util.tree_flatten((args, kwargs))
        arrays = {
            label: spec
            for label, spec in zip(self.labels, self.primals, strict=True)
            if any(leaf is label for leaf in leaves)
        }
        settings = (self.environment.settings, self.environment.mesh)
        return self.fn.written, structure, [(type(x), x) for x in leaves], arrays, settings


def keep_trace(call: TracedCall) -> None:
    """Keep the trace of a call that is repeated now, in this thread, with a key."""
    _thread.call = call


def take_trace(call: TracedCall, seed_argnum: int) -> Callable[..., Any] | None:
    """Return the trace that was kept for this call, as a function of its arrays, if there is one.

    It is kept no longer.
    """
    kept: TracedCall | None = getattr(_thread, "call", None)
    _thread.call = None
    if kept is None or call.primals[seed_argnum].shape != (2,):
        return None
    if kept.describe() != call.describe():
        return None
    program: Any = kept.program
    call.fn.copy_results(kept.fn)

    def run(*xs: Any) -> list[Any]:
        data = jnp.asarray(xs[seed_argnum]).astype(jnp.uint32)
        return program(*xs[:seed_argnum], *xs[seed_argnum + 1 :], data)

    return run
