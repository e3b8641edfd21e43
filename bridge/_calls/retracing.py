"""How often a function was traced, and what varied in between."""

import warnings
from collections.abc import Sequence

from bridge._calls.plan import LeafInfo
from bridge._core.tracebacks import user_stacklevel

_MANY = 16


class RetraceCounter:
    """The traces of a function called `name`; many of them cause a warning."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: dict[str, dict[str, None]] = {}
        self._count = 0

    def record(self, described: Sequence[LeafInfo]) -> None:
        """One more, for these leaves; warns once when there are many, and says what varies."""
        self._count += 1
        if self._count > _MANY + 1:
            return
        for leaf in described:
            seen = self._seen.setdefault(leaf.name, {})
            seen[str(leaf.spec if leaf.spec else leaf.signature)] = None
        if self._count > _MANY:
            varying = "; ".join(
                f"{label} ({', '.join([*values][:4])}, ...)"
                for label, values in self._seen.items()
                if len(values) > 1
            )
            warnings.warn(
                f"{self._name} has been traced {self._count} times, which is slow. Varying: "
                f"{varying or 'the structure of its arguments'}. Each new shape, dtype and "
                "static value is traced and compiled anew: pad shapes, or pass a static number "
                "as an array.",
                stacklevel=user_stacklevel(),
            )
