"""The state that JAX is in: its modes, its guards, and whether its threads run."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax

from bridge._core.errors import DeviceError

CONFIG: Any = jax.config  # its options are attributes that it does not declare


@dataclasses.dataclass
class _Forked:
    """What is known of JAX's threads: whether they run, and whether they ran before a fork."""

    started: bool = False
    started_before: bool = False

    def __call__(self) -> None:
        self.started_before = self.started or bool(getattr(_xla_bridge, "_backends", None))


try:  # where JAX notes that it has started its threads, for us or for others
    from jax._src import xla_bridge as _xla_bridge
except ImportError:
    _xla_bridge = None

_forked = _Forked()
os.register_at_fork(after_in_child=_forked)


def check_not_forked() -> None:
    """Raise where JAX would wait forever for threads that its process does not have."""
    if _forked.started_before:
        raise DeviceError(
            "JAX was used before this process was forked off, and its threads are not in the "
            'child, where it would wait for them forever. Start processes with "spawn" or '
            '"forkserver", or use JAX only after the fork.'
        )
    _forked.started = True


def x64_mode() -> bool:
    """Whether JAX is in 64-bit mode, here and now."""
    return CONFIG.jax_enable_x64


def allow_transfers() -> contextlib.AbstractContextManager[Any]:
    """A context in which arguments cross, which the caller asks for by the call itself.

    So `jax.transfer_guard("disallow")`, which is about others, lets them pass.
    """
    guard = CONFIG.jax_transfer_guard_host_to_device
    if guard in ("disallow", "log"):
        return jax.transfer_guard_host_to_device("allow")
    return _NOTHING


def allows_transfers(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, a program, whose arguments may be in memory of others."""

    def admit(*args: Any) -> Any:
        if CONFIG.jax_transfer_guard_host_to_device is None:
            return call(*args)
        with allow_transfers():
            return call(*args)

    return admit


_NOTHING = contextlib.nullcontext()
