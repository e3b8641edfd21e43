"""Private names of torch for the tables in which an `nn.Module` has its parameters and parts."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

Tables = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]
_NONE: Tables = ({}, {}, {})


def read_tables(module: torch.nn.Module, classes: Collection[type]) -> Tables:
    """Return where a module of one of these classes looks up parameters, buffers and parts.

    They are empty if something else may come first: an attribute of the instance, as replicas have
    them, or of another class, as `parametrize` and FSDP2 make them. A look-up takes a tenth of the
    time of an attribute, which Python looks for in vain before it asks `nn.Module`.
    """
    own = module.__dict__
    if type(module) not in classes:
        return _NONE
    params, buffers, parts = own.get("_parameters"), own.get("_buffers"), own.get("_modules")
    if params is None or buffers is None or parts is None:
        return _NONE
    names = own.keys()
    if names.isdisjoint(params) and names.isdisjoint(buffers) and names.isdisjoint(parts):
        return params, buffers, parts
    return _NONE
