"""JAX's modes, its transfer guards, and the state of its threads after a fork."""

import contextlib
import dataclasses
import os
from typing import Any

import jax

from bridge._core.errors import DeviceError
from bridge._core.forks import lost_threads

CONFIG: Any = jax.config  # its options are attributes that it does not declare

try:
    from jax._src import config as _options
except ImportError:
    _options = None


class _Option:
    """An option of JAX by its public name, read by a function of Python."""

    def __init__(self, name: str) -> None:
        self._name = f"jax_{name}"

    @property
    def value(self) -> Any:
        return getattr(CONFIG, self._name)


def _option(name: str) -> Any:
    """Return an object with the current value of an option of JAX; its own need no call."""
    return getattr(_options, name, _Option(name))


DEFAULT_DEVICE, DEFAULT_GENERATOR = _option("default_device"), _option("default_prng_impl")
TRANSFER_GUARD = _option("transfer_guard_host_to_device")


@dataclasses.dataclass
class _ForkState:
    """The state of JAX's threads in this process, and in its parent before a fork.

    Attributes:
        jax_used: True if bridge has used JAX in this process, so that it need not be checked again.
        jax_used_before: True if JAX had started its threads before the fork.
    """

    jax_used: bool = False
    jax_used_before: bool = dataclasses.field(default_factory=lambda: lost_threads("jax"))

    def note_use_before_fork(self) -> None:
        """Note in the child if the threads had been started, by bridge or by others."""
        backends = getattr(_xla_bridge, "_backends", None)
        self.jax_used_before = self.jax_used_before or self.jax_used or bool(backends)
        self.jax_used = False


try:  # it holds the backends that JAX has started, each with its threads
    from jax._src import xla_bridge as _xla_bridge
except ImportError:
    _xla_bridge = None

fork_state = _ForkState()
os.register_at_fork(after_in_child=fork_state.note_use_before_fork)


def check_not_forked() -> None:
    """Raise in a forked child where JAX would wait forever for the threads of its parent."""
    if fork_state.jax_used_before:
        raise DeviceError(
            "JAX was used before this process was forked off, and its threads are not in the "
            'child, where it would wait for them forever. Start processes with "spawn" or '
            '"forkserver", or use JAX only after the fork.'
        )
    fork_state.jax_used = True


def x64_mode() -> bool:
    """Return True if JAX is in 64-bit mode in this thread now."""
    return CONFIG.jax_enable_x64


def allow_transfers() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which arguments may be copied to the device.

    The caller asks for that by the call, so `jax.transfer_guard("disallow")`, against implicit
    copies, must not refuse it.
    """
    if TRANSFER_GUARD.value in ("disallow", "log"):
        return jax.transfer_guard_host_to_device("allow")
    return _NOTHING


_NOTHING = contextlib.nullcontext()
