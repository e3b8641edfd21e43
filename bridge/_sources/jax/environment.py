"""The settings of JAX that a trace depends on.

NOTE [settings of a call]
A function is traced with the settings around its call, as by `jax.jit`: precision of products,
promotion of dtypes and ranks, random numbers, the mesh of devices. Its derivatives are traced later
and perhaps in another thread, where others hold. They are those of this call, so they take its
settings, as the derivatives of `jax.grad` do.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Hashable
from typing import Any

import jax

from bridge._sources.jax.internals import CONFIG, SETTINGS, read_setting, trace_context

_MOST_KNOWN = 1024


class _Numbers:
    """A number for each state of the settings, which is compared and hashed in no time."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._fresh = itertools.count()
        self._last: tuple[Any, Any, int] = (None, None, -1)

    def __call__(self) -> int:
        """That of the settings here and now."""
        # jax.jit does not look at the generator of random numbers, on which results depend.
        context, generator = trace_context(), CONFIG.jax_default_prng_impl
        last = self._last  # read once: other threads write it
        if context == last[0] and generator == last[1]:
            return last[2]
        if len(self._known) >= _MOST_KNOWN:  # each may hold a mesh
            self._known.clear()
        number = self._known.setdefault((context, generator), next(self._fresh))
        self._last = context, generator, number
        return number


key_numbers = _Numbers()


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """The settings that a function and its derivatives are traced and run with.

    Attributes:
        x64: Whether JAX computes in its 64-bit mode.
        settings: Values of all settings by their public names.
        mesh: The mesh of devices that `jax.set_mesh` has set, if any.
        context: What `trace_context` says where they hold.
    """

    x64: bool
    settings: dict[str, Any]
    mesh: Any
    context: Any = None

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """A context in which these settings hold: NOTE [settings of a call]."""
        with contextlib.ExitStack() as stack:
            for name, value in self.settings.items():
                if read_setting(name) != value:
                    stack.enter_context(getattr(jax, name)(value))
            if self.mesh is not None and _mesh() != self.mesh:
                stack.enter_context(jax.set_mesh(self.mesh))
            yield

    def run_with(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call` with these settings, whatever they are where it is called."""
        expected, generator = self.context, self.settings["default_prng_impl"]

        def scoped(*args: Any) -> Any:
            # As in `key_numbers`, but for its number, which would cost a call more.
            if trace_context() == expected and CONFIG.jax_default_prng_impl == generator:
                return call(*args)
            with self():
                return call(*args)

        return scoped


def current_environment(*, x64: bool) -> Environment:
    """The settings here and now, but for 64-bit mode."""
    values = {name: read_setting(name) for name in SETTINGS} | {"enable_x64": x64}
    noted = Environment(x64, values, _mesh())
    with noted():
        return dataclasses.replace(noted, context=trace_context())


def _mesh() -> Any:
    """The mesh that `jax.set_mesh` has set; inside of a trace it cannot be asked for."""
    try:
        return jax.sharding.get_mesh()
    except ValueError:
        return None
