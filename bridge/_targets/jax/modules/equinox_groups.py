"""Groups of arrays of a module as trees of Equinox, and arrays in them that nothing trains.

NOTE [frozen arrays in Equinox]
Equinox trains each array of floating-point numbers. An array that is not to be trained, a frozen
parameter or a constant, is no static field either: it is saved, and too large for one. So its leaf
has the same bits as integers, which nobody differentiates, or decays.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp

from bridge._core.errors import ArgumentError


class Frozen(eqx.Module):
    """An array that the original does not train: NOTE [frozen arrays in Equinox]."""

    bits: tuple[Any, ...]  # of the real part, and of the imaginary part if there is one
    dtype: Any = eqx.field(static=True)

    def __init__(self, value: Any) -> None:
        is_complex = jnp.issubdtype(value.dtype, jnp.complexfloating)
        parts = lambda x: (x.real, x.imag) if is_complex else (x,)
        self.dtype = jnp.finfo(value.dtype).dtype
        integers = jnp.dtype(f"uint{8 * self.dtype.itemsize}")
        convert = lambda x: tuple(jax.lax.bitcast_convert_type(x, integers) for x in parts(x))
        has_values = not isinstance(value, jax.ShapeDtypeStruct)
        self.bits = convert(value) if has_values else jax.eval_shape(convert, value)

    @property
    def value(self) -> Any:
        """The array itself."""
        parts = [jax.lax.bitcast_convert_type(bits, self.dtype) for bits in self.bits]
        return parts[0] if len(parts) == 1 else jax.lax.complex(*parts)


class Members:
    """Attributes and items, which are parameters and groups of these names.

    Groups are nodes that JAX flattens itself: a module of Equinox for each would make a step of a
    perceptron of 12 layers 1.4 times as long before it computes.
    """

    def __getattr__(self, name: str) -> Any:
        members = vars(self).get("members", {})  # while it is unpickled there are none
        if name not in members:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return members[name]

    def __getitem__(self, name: str | int) -> Any:
        return self.members[str(name)]

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be iterated over; its items have names")


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Group(Members):
    """Parameters and groups whose names begin alike."""

    members: dict[str, Any]

    def __init__(self, members: dict[str, Any]) -> None:
        vars(self)["members"] = members


@dataclasses.dataclass(frozen=True, eq=False, init=False)
class Part(Group):
    """A group that has a mode of its own."""

    inference: bool

    def __init__(self, members: dict[str, Any], inference: bool) -> None:  # noqa: FBT001, as flattened
        own = vars(self)  # by which it is rebuilt in a third of the time
        own["members"], own["inference"] = members, inference


for _node in (Group, Part):
    _fields = [field.name for field in dataclasses.fields(_node)]
    jax.tree_util.register_dataclass(_node, data_fields=_fields, meta_fields=[])


def freeze(value: Any) -> Any:
    """Return an array as one that nothing trains."""
    return Frozen(value) if jnp.issubdtype(value.dtype, jnp.inexact) else value


def member(module: Any, path: str) -> Any:
    """Return what is in a module under a path of names with dots between them."""
    return functools.reduce(
        lambda group, name: group.members[name], path.split(".") if path else (), module
    )


def make_members(
    path: str, params: Mapping[str, Any], modes: Mapping[str, bool], module: str
) -> dict[str, Any]:
    """Return the parameters and groups of the group at `path` by name."""
    start = f"{path}." if path else ""
    inner = [name.removeprefix(start) for name in (*modes, *params) if name.startswith(start)]
    members: dict[str, Any] = {}
    for name in dict.fromkeys(rest.partition(".")[0] for rest in inner if rest):
        inner_path = start + name
        nested = make_members(inner_path, params, modes, module)
        if inner_path not in params:
            inference = not modes.get(inner_path)
            members[name] = Part(nested, inference) if inner_path in modes else Group(nested)
        elif nested or inner_path in modes:
            raise ArgumentError(
                f"{module} has an array and a group of the name {inner_path!r}. Rename one of them."
            )
        else:
            members[name] = params[inner_path]
    return members
