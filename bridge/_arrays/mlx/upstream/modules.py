"""Attributes of `mlx.nn.Module` that MLX does not promise."""

from collections.abc import Iterable
from typing import Any

MODE, FROZEN = "_training", "_no_grad"
OWN_ATTRIBUTES = (MODE, FROZEN)  # in which `mlx.nn.Module` notes its mode, and what is frozen


class _Frozen(set[str]):
    """The names of arrays that are not trained; `unfreeze` takes away all but those for good."""

    def __init__(self, names: Iterable[str] = (), for_good: Iterable[str] = ()) -> None:
        super().__init__(names)
        self.for_good = frozenset(for_good)

    def __contains__(self, name: object) -> bool:
        return name in self.for_good or super().__contains__(name)


class PublicName(str):
    """The name of an array that is a parameter to MLX although it may begin with `_`."""

    __slots__ = ()

    def startswith(self, prefix: Any, *bounds: Any) -> bool:
        """Return False for `_`, by which MLX tells arrays that are no parameters."""
        return prefix != "_" and super().startswith(prefix, *bounds)


def freeze_for_good(module: Any, names: Iterable[str]) -> None:
    """Freeze arrays of a module, so that `unfreeze`, of any module around it, leaves them frozen.

    MLX has no public way: its own `unfreeze` of a model trains running statistics too. Without the
    private attribute they are frozen until then.
    """
    names = [*names]
    module.freeze(keys=names, recurse=False)
    frozen = getattr(module, FROZEN, None)
    if type(frozen) is set:
        module._no_grad = _Frozen(frozen, names)
    elif isinstance(frozen, _Frozen):
        frozen.for_good |= {*names}
