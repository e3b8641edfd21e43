"""The modes of the parts of a module of Flax nnx."""

from collections.abc import Iterable
from typing import Any

from bridge._core.call_words import EVALUATION, TRAINING


def read_modes(module: Any) -> dict[str, bool]:
    """Return the modes of parts, the whole first, which is in training if a part is.

    A part has a mode if it has an attribute `deterministic`, `use_running_average` or another of
    these words, or methods `train` and `eval` of its own. None as its mode leaves it to the caller,
    which counts as training.
    """
    modes = {name: _read_mode(part) for name, part in _find_parts(module).items()}
    return {"": modes.get("", any(modes.values()) or not modes), **modes}


def has_modes(module: Any) -> bool:
    """Return True if the module has a part with a mode."""
    return bool(_find_parts(module))


def set_modes(module: Any, before: dict[str, bool], modes: Iterable[bool]) -> None:
    """Set the modes of parts that had another one before, or leave theirs to the caller."""
    parts, is_reset = _find_parts(module), False
    for (name, earlier), training in zip(before.items(), modes, strict=True):
        part = parts.get(name)
        if part is None:
            continue
        if training != earlier and _has_own_methods(part):
            part.train() if training else part.eval()
            is_reset = True  # these methods set inner parts too
        for flag, value in _flags(part).items():
            if value is None or training != earlier or is_reset:
                setattr(part, flag, training if flag in TRAINING else not training)


def _find_parts(module: Any) -> dict[str, Any]:
    """Return the parts that have modes by name, outer ones first."""
    from flax import nnx

    nodes = sorted(nnx.iter_graph(module), key=lambda pair: len(pair[0]))
    return {
        ".".join(map(str, path)): node
        for path, node in nodes
        if isinstance(node, nnx.Module) and (_flags(node) or _has_own_methods(node))
    }


def _flags(part: Any) -> dict[str, bool | None]:
    """Return the attributes by which a part has a mode."""
    values = {name: getattr(part, name, part) for name in (*TRAINING, *EVALUATION)}
    return {name: x for name, x in values.items() if x is None or isinstance(x, bool)}


def _has_own_methods(part: Any) -> bool:
    from flax import nnx

    return type(part).train is not nnx.Module.train or type(part).eval is not nnx.Module.eval


def _read_mode(part: Any) -> bool:
    if flags := _flags(part):
        return any(x is None or x == (name in TRAINING) for name, x in flags.items())
    return _is_changed_by(part, "eval") or not _is_changed_by(part, "train")


def _is_changed_by(part: Any, method: str) -> bool:
    from flax import nnx

    graphdef, state = nnx.split(part)
    copy = nnx.merge(graphdef, state)
    getattr(copy, method)()
    return nnx.graphdef(copy) != graphdef
