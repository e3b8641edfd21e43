"""A count of the traces of a function, and a warning when there are many."""

import warnings
from collections.abc import Sequence

from bridge._calls.plan import LeafInfo
from bridge._core.tracebacks import user_stacklevel

_MANY = 16


class RetraceCounter:
    """Counts the traces of the function `name`; warns once, when there are many."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._descriptions: dict[str, dict[str, None]] = {}  # by argument, in order, each once
        self._count = 0

    def record(self, leaf_infos: Sequence[LeafInfo]) -> None:
        """Count a trace for these leaves; when there are many, warn and say what varies."""
        self._count += 1
        if self._count > _MANY + 1:
            return
        for leaf in leaf_infos:
            descriptions = self._descriptions.setdefault(leaf.name, {})
            descriptions[str(leaf.spec if leaf.spec else leaf.signature)] = None
        if self._count > _MANY:
            varying = "; ".join(
                f"{label} ({', '.join([*descriptions][:4])}, ...)"
                for label, descriptions in self._descriptions.items()
                if len(descriptions) > 1
            )
            warnings.warn(
                f"{self._name} has been traced {self._count} times, which is slow. Varying: "
                f"{varying or 'the structure of its arguments'}. Each new shape, dtype and "
                "static value is traced and compiled again: pad shapes, or pass a static number "
                "as an array.",
                stacklevel=user_stacklevel(),
            )
