"""The argument `rng`, the key from which the random numbers of a function follow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge._core.errors import ArgumentError, OptionError
from bridge._core.protocols import SEED

if TYPE_CHECKING:
    from bridge._calls.arguments import Parameters
    from bridge._calls.plan import LeafInfo
    from bridge._core.protocols import Source


def takes_key(source: "Source", name: str, parameters: "Parameters") -> bool:
    """Return True if the function `name` takes a key, `rng=`; raise if its own `rng` forbids it."""
    has_parameter = SEED in parameters.all_names
    if source.supports_rng and has_parameter:
        raise OptionError(
            f"{name} has a parameter `{SEED}`, which is how the bridged function takes its key "
            "for random numbers. Give the parameter another name."
        )
    if not (source.passes_rng and has_parameter):
        return source.supports_rng
    if SEED in (*parameters.positional_names, parameters.variadic):
        raise OptionError(
            f"{name} takes its generator of random numbers, `{SEED}`, by position. Make it "
            f"keyword-only: def {name}(..., *, {SEED})."
        )
    return True


def missing_key_error(name: str) -> ArgumentError:
    """Return the error for a call of `name`, which draws random numbers, without a key."""
    return ArgumentError(
        f"{name} draws random numbers, which have to follow from an argument. Pass a key, "
        f"`{SEED}=`."
    )


def seed_positions(
    name: str, leaf_infos: Sequence["LeafInfo"], array_infos: Sequence["LeafInfo"]
) -> list[int]:
    """Return the position of the key among the arrays, if there is one; raise if it is invalid."""
    keys = [info for info in leaf_infos if info.name == SEED]
    for info in keys:
        if info.spec is None or not info.spec.dtype.startswith(("int", "uint")):
            kind = "no array" if info.spec is None else f"of {info.spec.dtype}"
            raise ArgumentError(
                f"argument `{SEED}` of {name} is {kind}. Pass a key, or an array of integers, "
                "whose random numbers are always the same."
            )
    return [array_infos.index(info) for info in keys]
