"""The attributes under which a bridged module has the arrays and groups of the original."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bridge._core.errors import ArgumentError

# A group: the number of the one that it is in, and its name there; the module itself is number 0.
GroupPlace = tuple[int, str]
# An array: its original name, the number of its group, and its name there.
Place = tuple[str, int, str]


def _refuse_hook(*_: Any, **__: Any) -> Any:
    raise ArgumentError(
        "a group of a module of another framework is never called by itself, so that a hook on it "
        "would never run. Register the hook on the whole module. What computes parameters goes "
        "into torch.nn.utils.parametrize, as torch.nn.utils.parametrizations.weight_norm does; "
        "`fully_shard`, which works by hooks, takes the whole module."
    )


class Group(torch.nn.Module):
    """Parameters and buffers whose names begin alike.

    The module as a whole is called, so that hooks of a group would never run: they are refused, and
    with them what old `weight_norm`, `spectral_norm` and pruning do in hooks.
    """

    register_forward_pre_hook = register_forward_hook = _refuse_hook
    register_full_backward_pre_hook = register_full_backward_hook = _refuse_hook
    register_backward_hook = _refuse_hook

    def extra_repr(self) -> str:
        """Return the shapes of the parameters."""
        shapes = [f"{k}={list(x.shape)}" for k, x in self.named_parameters(recurse=False)]
        return ", ".join(shapes)


class Places:
    """Registers arrays in a module and in groups, which become submodules of it.

    Attributes:
        groups: The places of the groups that were made, outer ones first.
    """

    def __init__(self, root: torch.nn.Module, kind: str) -> None:
        self._owners, self._numbers, self._kind = [root], dict[GroupPlace, int](), kind
        self.groups: list[GroupPlace] = []
        # What the class of the root will set later would hide a parameter of that name.
        self._reserved = {*vars(torch.nn.Module()), *type(root).__annotations__}

    def register(self, tensors: Mapping[str, torch.Tensor], *, trained: bool) -> tuple[Place, ...]:
        """Register copies of tensors by name, and return their places."""
        return tuple(self._register(name, x, trained=trained) for name, x in tensors.items())

    def _register(self, name: str, x: torch.Tensor, *, trained: bool) -> Place:
        *groups, leaf = self._attributes(name)
        number = self.add_group(groups, name)
        owner = self._owners[number]
        if hasattr(owner, leaf):
            raise self._two_of_one_name(name)
        value = x.detach().clone(memory_format=torch.contiguous_format)
        if trained and (value.is_floating_point() or value.is_complex()):
            owner.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)
        return name, number, leaf

    def group(self, name: str) -> int:
        """Return the number of the group of this name, which is made if there is none."""
        return self.add_group(self._attributes(name), name) if name else 0

    def add_group(self, attributes: Sequence[str], name: str) -> int:
        """Return the number of a group by the attributes that lead to it."""
        number = 0
        for attribute in attributes:
            place = number, attribute
            if place not in self._numbers:
                owner = self._owners[number]
                if hasattr(owner, attribute):
                    raise self._two_of_one_name(name)
                group = Group()
                owner.add_module(attribute, group)
                self._owners.append(group)
                self.groups.append(place)
                self._numbers[place] = len(self._owners) - 1
            number = self._numbers[place]
        return number

    def owner(self, number: int) -> torch.nn.Module:
        """Return the group with this number."""
        return self._owners[number]

    def _attributes(self, name: str) -> list[str]:
        parts = name.split(".")
        if not all(parts):
            raise ArgumentError(
                f"{self._kind} has an array or a group named {name!r}, and torch takes no empty "
                "names between dots. Rename it."
            )
        return [self._free_name(part) for part in parts]

    def _free_name(self, name: str) -> str:
        """Return the attribute for a name; one that an `nn.Module` has itself gets `_` behind."""
        is_used = _is_attribute_of_class(type(self._owners[0]), name) or name in self._reserved
        return f"{name}_" if is_used else name

    def _two_of_one_name(self, name: str) -> ArgumentError:
        return ArgumentError(
            f"{self._kind} has two arrays or groups that torch would call {name!r}. Rename one of "
            "them."
        )


@functools.cache
def _is_attribute_of_class(kind: type, name: str) -> bool:
    return hasattr(kind, name)
