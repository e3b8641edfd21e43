"""The argument `rng`, the key from which the random numbers of a function follow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bridge import _registry
from bridge._core import pytree
from bridge._core.errors import ArgumentError, OptionError
from bridge._core.protocols import SEED
from bridge._core.pure_module import PureModule

if TYPE_CHECKING:
    from bridge._calls.arguments import Parameters
    from bridge._calls.plan import LeafInfo
    from bridge._calls.planner import Planner
    from bridge._core.protocols import Outline


class KeyArgument:
    """The argument `rng` of the calls of one bridged function."""

    def __init__(self, planner: "Planner") -> None:
        self._planner = planner

    def normalize(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments with the data of a key in place of the key."""
        if not self._planner.takes_key:
            return kwargs
        target, batches = self._planner.target, self._planner.batches
        if kwargs.get(SEED, self) is None:  # rng=None is no key
            kwargs = {name: value for name, value in kwargs.items() if name != SEED}
        if SEED in kwargs:
            data = target.key_data(kwargs[SEED], batch_count=len(batches.in_dims))
            return {**kwargs, SEED: data}
        return kwargs

    def add_seed(
        self, args: Any, kwargs: dict[str, Any], device: str, *, drawn: bool = True
    ) -> dict[str, Any]:
        """Return the keyword arguments with a seed of the target; raise if it has none."""
        seed = self._fresh_seed(args, device, drawn=drawn)
        if seed is None:
            raise missing_key_error(self._planner.name)
        return {**kwargs, SEED: seed}

    def _fresh_seed(self, args: Any, device: str, *, drawn: bool) -> Any:
        """Return a seed, or one for each example of each batch; None if the target has none."""
        planner = self._planner
        is_module = isinstance(planner.fn, PureModule)
        if not planner.batches.in_dims:
            return planner.target.fresh_seed(device, of_module=is_module, drawn=drawn)
        leaves, structure = pytree.flatten((args, {}), _registry.pytree_node_functions)
        infos = planner.describe_leaves(leaves, structure)
        sizes = planner.batches.sizes(infos, pytree.paths(structure), planner.name)
        return planner.target.fresh_seed(device, sizes, of_module=is_module, drawn=drawn)


def takes_key(source: "Outline", fn: Any, name: str, parameters: "Parameters") -> bool:
    """Return True if `fn` takes a key, `rng=`; raise if its own parameter `rng` forbids it."""
    has_parameter = SEED in parameters.all_names
    if source.supports_rng and has_parameter:
        raise OptionError(
            f"{name} has a parameter `{SEED}`, which is how the bridged function takes its key "
            "for random numbers. Give the parameter another name."
        )
    if not (has_parameter and source.passes_rng(fn)):
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


def rng_positions(
    name: str, leaf_infos: Sequence["LeafInfo"], array_infos: Sequence["LeafInfo"]
) -> list[int]:
    """Return the position of the key among the arrays, if there is one; raise if it is invalid."""
    keys = [info for info in leaf_infos if info.name == SEED]
    for info in keys:
        if info.spec is None or not info.spec.dtype.startswith(("int", "uint", "key<")):
            kind = "no array" if info.spec is None else f"of {info.spec.dtype}"
            raise ArgumentError(
                f"argument `{SEED}` of {name} is {kind}. Pass a key, or an array of integers, "
                "whose random numbers are always the same."
            )
    return [array_infos.index(info) for info in keys]
