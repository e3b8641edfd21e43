"""The JAX settings that a trace depends on.

NOTE [settings of a call]
A function is traced with the settings around its call, as by `jax.jit`: precision of matrix
products, promotion of dtypes and ranks, random number generator, mesh of devices. Its derivatives
are traced later, perhaps in another thread with other settings. They are derivatives of this call,
so they are traced with its settings, as `jax.grad` does.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Hashable
from typing import Any

import jax

from bridge._arrays.jax import allow_transfers
from bridge._arrays.jax.upstream.modes import DEFAULT_GENERATOR, TRANSFER_GUARD
from bridge._arrays.jax.upstream.settings import SETTINGS, read_setting, trace_context

_MOST_NUMBERS = 1024


class _SettingsNumbers:
    """Numbers the states of the settings: a number is fast to compare and to hash."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._named: dict[int, dict[str, Any]] = {}
        self._counter = itertools.count()
        self._last: tuple[Any, Any, int] = (None, None, -1)

    def __call__(self) -> int:
        """Return the number of the current settings."""
        # jax.jit does not look at the generator of random numbers, on which results depend.
        context, generator = trace_context(), DEFAULT_GENERATOR.value
        last = self._last  # read once: other threads write it
        if context == last[0] and generator == last[1]:
            return last[2]
        if len(self._numbers) >= _MOST_NUMBERS:  # each key may hold a mesh
            self._numbers.clear()
            self._named.clear()
        number = self._numbers.setdefault((context, generator), next(self._counter))
        self._named.setdefault(number, {name: read_setting(name) for name in SETTINGS})
        self._last = context, generator, number
        return number

    def describe(self, number: int) -> dict[str, Any]:
        """Return the settings of this number, by name; none if it is no longer known."""
        return self._named.get(number, {})


number_of_settings = _SettingsNumbers()


@dataclasses.dataclass(frozen=True, eq=False)
class Environment:
    """The settings that a function and its derivatives are traced and run with.

    Attributes:
        x64: True if JAX computes in its 64-bit mode.
        settings: The values of all settings, by their public names.
        mesh: The mesh of devices that `jax.set_mesh` has set, if any.
        context: What `trace_context` returns under these settings.
    """

    x64: bool
    settings: dict[str, Any]
    mesh: Any
    context: Any = None

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Apply these settings within a context: NOTE [settings of a call]."""
        with contextlib.ExitStack() as stack:
            for name, value in self.settings.items():
                if read_setting(name) != value:
                    stack.enter_context(getattr(jax, name)(value))
            if self.mesh is not None and _mesh() != self.mesh:
                stack.enter_context(jax.set_mesh(self.mesh))
            yield

    def run_with(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` so that it runs with these settings, wherever it is called."""
        expected, generator = self.context, self.settings["default_prng_impl"]

        def scoped(*args: Any) -> Any:
            # Compared as in `number_of_settings`, whose call would take longer.
            if trace_context() == expected and DEFAULT_GENERATOR.value == generator:
                return call(*args)
            with self():
                return call(*args)

        return scoped

    def run_program(self, program: Callable[..., Any]) -> Callable[..., Any]:
        """Return a compiled program likewise, whose arguments may be in others' memory."""
        expected, generator = self.context, self.settings["default_prng_impl"]

        def scoped(*args: Any) -> Any:
            # In one function with `run_with`, a call more would take as long as a check.
            is_expected = trace_context() == expected and DEFAULT_GENERATOR.value == generator
            if is_expected and TRANSFER_GUARD.value is None:
                return program(*args)
            with self(), allow_transfers():
                return program(*args)

        return scoped


def current_environment(*, x64: bool) -> Environment:
    """Return the current settings, with 64-bit mode as `x64` says."""
    values = {name: read_setting(name) for name in SETTINGS} | {"enable_x64": x64}
    environment = Environment(x64, values, _mesh())
    with environment():
        return dataclasses.replace(environment, context=trace_context())


def _mesh() -> Any:
    """Return the mesh that `jax.set_mesh` has set; None inside a trace, where JAX refuses."""
    try:
        return jax.sharding.get_mesh()
    except ValueError:
        return None
