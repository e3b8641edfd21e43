"""NumPy in tests: values, to compare those of others with."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from bridge._core.errors import NoRuleError
from bridge._testing.backend import Backend


class NumpyBackend(Backend):
    """NumPy, which has no derivatives."""

    name: ClassVar[str] = "numpy"

    @property
    def xp(self) -> Any:
        """NumPy itself, which has the names of the standard."""
        return np

    def grad(self, fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> NoReturn:
        """Raise: there are no derivatives."""
        raise _no_rule("grad")

    def vjp(self, fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> NoReturn:
        """Raise: there are no derivatives."""
        raise _no_rule("vjp")

    def jvp(
        self, fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]
    ) -> NoReturn:
        """Raise: there are no derivatives."""
        raise _no_rule("jvp")

    def vmap(self, fn: Callable[..., Any], in_axes: Any = 0) -> NoReturn:
        """Raise: there are no transformations."""
        raise _no_rule("vmap")

    def compile(self, fn: Callable[..., Any]) -> NoReturn:
        """Raise: there is no compiler."""
        raise _no_rule("compile")

    def is_lack(self, error: Exception) -> bool:
        """Return True for what this class raises."""
        return isinstance(error, NotImplementedError)


def _no_rule(name: str) -> NoRuleError:
    return NoRuleError(
        f"NumPy has values only, and no {name}. Compare derivatives with those of a framework that "
        "has them, or with bridge.testing.numerical_gradient."
    )


BACKEND = NumpyBackend
