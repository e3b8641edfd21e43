"""Modules with weights as programs for the modules that libraries of JAX make of them."""

import abc
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from bridge._calls.bridged_function import BridgedFunction
from bridge._calls.functional import BridgedModule, Functional
from bridge._calls.functional_module import FunctionalModule, take_functional_apart
from bridge._core.errors import ArgumentError
from bridge._core.protocols import SEED
from bridge._core.pure_module import Arrays, PureModule, Variant, warn_of_own_train


class ModuleProgram(abc.ABC):
    """A pure module that draws a key if its call needs one.

    It is a constant of compiled code, and shared by copies of the module.

    Attributes:
        pure: The pure module.
    """

    pure: PureModule

    @abc.abstractmethod
    def __call__(
        self,
        variant: Variant,
        params: Arrays,
        buffers: Arrays,
        args: Any,
        kwargs: Mapping[str, Any],
        draw_key: Callable[[], Any],
    ) -> tuple[Any, Arrays]:
        """Call the module; return its output and its new buffers."""

    def __deepcopy__(self, _: Any) -> "ModuleProgram":
        return self

    @abc.abstractmethod
    def identify(self) -> Any:
        """Return what is equal for two programs that compute the same."""

    def __eq__(self, other: object) -> bool:  # two modules made of one are trees of one structure
        return isinstance(other, ModuleProgram) and self.identify() == other.identify()

    def __hash__(self) -> int:
        return hash(self.identify())


class _BridgedProgram(ModuleProgram):
    """A module of another framework."""

    def __init__(self, pure: PureModule, function: BridgedFunction) -> None:
        self.pure, self._function = pure, function

    def __repr__(self) -> str:
        return repr(self._function)

    def identify(self) -> Any:
        """Return the function, which all modules made of one share."""
        return id(self._function)

    def __call__(
        self,
        variant: Variant,
        params: Arrays,
        buffers: Arrays,
        args: Any,
        kwargs: Mapping[str, Any],
        draw_key: Callable[[], Any],
    ) -> tuple[Any, Arrays]:
        args = (variant, params, buffers, *args)
        if self._function.needs_key(args, dict(kwargs)):
            kwargs = {**kwargs, SEED: draw_key()}
        return self._function(*args, **kwargs)


class _FunctionProgram(ModuleProgram):
    """A function of JAX with weights, which is called as it is."""

    def __init__(self, pure: FunctionalModule) -> None:
        self.pure = self._pure = pure

    def __repr__(self) -> str:
        return f"<{self._pure.__name__}>"

    def identify(self) -> Any:
        """Return the user's function, and the names of its arrays."""
        return self._pure.identify()

    def __call__(
        self,
        variant: Variant,
        params: Arrays,
        buffers: Arrays,
        args: Any,
        kwargs: Mapping[str, Any],
        draw_key: Callable[[], Any],
    ) -> tuple[Any, Arrays]:
        (training,), _ = variant
        kwargs = dict(kwargs)
        key = kwargs.pop(SEED, None)
        if key is None and self._pure.takes_key:
            # In evaluation too, since what uses the key then, as sampling does, says so itself.
            with contextlib.nullcontext() if training else contextlib.suppress(ArgumentError):
                key = draw_key()
        return self._pure.call_with_key(variant, params, buffers, args, kwargs, key)


def take_apart(functional: Functional) -> tuple[ModuleProgram, Arrays, Arrays]:
    """Return the program of a function with weights, its parameters and its buffers by name."""
    if isinstance(functional, BridgedModule):
        function = functional.function
        if function.target_name != "jax":
            raise ArgumentError(
                f"{functional!r} is called with arrays of {function.target_name}, so it is no "
                "module of a library of JAX."
            )
        warn_of_own_train(functional.pure)
        program = _BridgedProgram(functional.pure, function)
        return program, functional.params, functional.buffers
    pure, params, buffers = take_functional_apart(functional, "jax")
    return _FunctionProgram(pure), params, buffers
