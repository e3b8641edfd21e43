"""The code that Dynamo reads where compiled code calls a bridged function.

NOTE [what Dynamo lets in and out]
Dynamo cannot read a bridged function. Its `nonstrict_trace` makes it run the function with fake
tensors instead, but takes and returns tensors and numbers only. So Dynamo reads this module: the
arguments are flattened as Dynamo sees them, and a function that it runs for a constant result
stores whatever is neither tensor nor number, and returns a key. `0 +` makes the key a constant of
the graph; without it, Dynamo would look for the variable that the number came from. Results leave
as a flat list with a description, from which they are rebuilt by code that Dynamo reads.

An error would be reported as an unsupported type of output. So its text becomes the reason why
another function, which Dynamo may not compile, makes the call: with `fullgraph` Dynamo shows that
reason; without it Python makes the call, which raises the error itself, or does what could not be
compiled.
"""

import ctypes
import dataclasses
import enum
import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any

import optree
import torch

from bridge._arrays.torch.upstream.compilers import (
    assume_constant_result,
    has_tracing_context,
    nonstrict_trace,
)
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._core.errors import ArgumentError
from bridge._core.function_protocols import StageableFunction
from bridge._core.pytree import attributes, make_instance
from bridge._targets.torch.staging import keep_object, specialize_number, stage

_VALUE, _DATACLASS = -1, -2
_CONSTANT = (type, types.FunctionType, types.BuiltinFunctionType, functools.partial, enum.Enum)
_SIMPLE = (str, bytes, tuple, frozenset, torch.dtype, torch.device, *_CONSTANT, type(None))


def call(function: StageableFunction, args: Any, kwargs: Any) -> Any:
    """Call `function` in compiled code: NOTE [what Dynamo lets in and out]."""
    if not torch.compiler.is_dynamo_compiling():  # between compiled parts, as after a graph break
        return torch.compiler.disable(function)(*args, **kwargs)
    _set_staging_function(id(function))
    keys: list[int] = []
    values: list[Any] = []
    _flatten(function, (args, kwargs), keys, values)
    outputs, description = function.staging_function(keys, values)
    if description is None:
        return function.named_graph_objects.uncompiled(args, kwargs)
    return _build(function, description, outputs)


def _from_id(function_id: int) -> StageableFunction:
    """Return the function with this `id`, which is alive: compiled code is calling it.

    Dynamo of torch 2.11 hands no objects to a function that it runs for a constant result.
    """
    return ctypes.cast(function_id, ctypes.py_object).value


def _set_staging_function(function_id: int) -> None:
    """Let Dynamo trace a function by running it."""
    function = _from_id(function_id)
    if function.staging_function is None:
        function.staging_function = nonstrict_trace(
            lambda keys, values: _stage_call(function, keys, values)
        )


def _store(function_id: int, boxed: tuple[Any]) -> int:
    """Store a constant of the graph and return its key.

    It comes in a tuple: without one, an object that compiled code has made would come without the
    attributes that its constructor has set.
    """
    return keep_object(_from_id(function_id), boxed[0])


def _is_foreign_array(x: Any) -> int:
    """Return 1 if `x` is an array of another framework, else 0."""
    return int(hasattr(x, "shape") and hasattr(x, "dtype"))


def _store_foreign_array(function_id: int, x: Any) -> int:
    """Store an array of another framework, which will be refused, and return its key."""
    return keep_object(_from_id(function_id), x)


def _store_if_unchanged(function_id: int, x: Any, attributes: dict[str, Any]) -> int:
    """Store an object and return its key; note if compiled code has set its attributes."""
    if getattr(x, "__dict__", {}) != attributes or hasattr(type(x), "__slots__"):
        x = _UnknownObject(type(x).__name__)
    return keep_object(_from_id(function_id), x)


for constant in (
    _set_staging_function,
    _store,
    _is_foreign_array,
    _store_foreign_array,
    _store_if_unchanged,
):
    assume_constant_result(constant)


@dataclasses.dataclass(frozen=True)
class _UnknownObject:
    """An object whose attributes only the compiler knows."""

    name: str


def _flatten(function: StageableFunction, tree: Any, keys: list[int], values: list[Any]) -> None:
    """Add keys of the structure and leaves of `tree` to `keys`, tensors and numbers to `values`."""
    leaves, structure = pytree.tree_flatten(tree)
    keys.append(0 + _store(id(function), (structure,)))
    keys.append(len(leaves))
    for leaf in leaves:
        if isinstance(leaf, bool) or isinstance(leaf, _SIMPLE):  # noqa: SIM101, Dynamo's bools
            keys.append(0 + _store(id(function), (leaf,)))
        elif isinstance(leaf, (torch.Tensor, int, float, complex)):
            keys.append(_VALUE)
            values.append(leaf)
        elif 0 + _is_foreign_array(leaf):
            keys.append(0 + _store_foreign_array(id(function), leaf))
        elif dataclasses.is_dataclass(leaf):
            fields = attributes(leaf)
            keys.append(_DATACLASS)
            keys.append(0 + _store(id(function), (type(leaf),)))
            keys.append(0 + _store(id(function), (tuple(fields),)))
            _flatten(function, list(fields.values()), keys, values)
        elif hasattr(leaf, "__dict__"):
            keys.append(0 + _store_if_unchanged(id(function), leaf, dict(leaf.__dict__)))
        else:
            keys.append(0 + _store(id(function), (leaf,)))


def _unflatten(objects: Sequence[Any], keys: Iterator[int], values: Iterator[Any]) -> Any:
    """Rebuild the tree that `_flatten` took apart."""
    structure, count = objects[next(keys)], next(keys)
    leaves = []
    for _ in range(count):
        key = next(keys)
        if key == _VALUE:
            leaves.append(specialize_number(next(values)))
        elif key == _DATACLASS:
            kind, names = objects[next(keys)], objects[next(keys)]
            leaves.append(make_instance(kind, names, _unflatten(objects, keys, values)))
        else:
            leaves.append(_check_leaf(objects[key]))
    return structure.unflatten(leaves)


def _check_leaf(x: Any) -> Any:
    """Return a stored leaf; raise if the graph cannot refer to it."""
    if isinstance(x, torch.Tensor):  # Dynamo traces NumPy arrays and scalars as tensors
        raise ArgumentError(
            "a NumPy array among the arguments would be a constant of the recorded graph. "
            "Pass it as a tensor; a NumPy scalar as a number."
        )
    if isinstance(x, _UnknownObject):
        raise ArgumentError(
            f"a {x.name} among the arguments has attributes that compiled code has set, which "
            "cannot be seen from outside of it. Make it before, or make its class a dataclass."
        )
    return x


def _stage_call(function: StageableFunction, keys: Sequence[int], values: Sequence[Any]) -> Any:
    """Record a call, which Dynamo runs with fake tensors."""
    try:
        args, kwargs = _unflatten(function.graph_objects, iter(keys), iter(values))
        outputs, structure = stage(function, args, kwargs)
        return _Results(outputs, _describe(function, structure))
    except Exception as error:  # `uncompiled` shows it or raises it again
        if (
            not has_tracing_context()
        ):  # but an interpreter of graphs, which made this one for other modes
            raise
        reason = f"{type(error).__name__}: {error}"
        call = torch.compiler.disable(lambda args, kwargs: function(*args, **kwargs), reason=reason)
        function.named_graph_objects.uncompiled = call
        return _Results([], None)


class _Results:
    """Flat outputs and their description, which Dynamo flattens as registered below."""

    def __init__(self, outputs: Sequence[torch.Tensor], description: Any) -> None:
        self.outputs, self.description = outputs, description


pytree.register_pytree_node(
    _Results,
    lambda results: (results.outputs, results.description),
    lambda outputs, description: (list(outputs), description),
)


def _describe(function: StageableFunction, structure: Any) -> Any:
    """Describe a structure for `_build`: the kind of a node, its data, and its children."""
    leaf_numbers = iter(range(structure.num_leaves))

    def describe(node: Any) -> Any:
        if optree.treespec_is_leaf(node):
            return "leaf", next(leaf_numbers), ()
        children = tuple(map(describe, node.children()))
        if node.type in (type(None), list, tuple):
            return node.type.__name__, None, children
        if node.type is dict:
            return "dict", tuple(node.entries()), children
        return (*_describe_class(function, node), children)

    return describe(structure)


def _describe_class(function: StageableFunction, node: Any) -> tuple[str, Any]:
    """Return the kind and data of a node that is an instance of a class."""
    if optree.is_namedtuple_class(node.type):
        return "namedtuple", _set_constant(function, node.type)
    children = [object() for _ in node.children()]
    example = node.one_level().unflatten(children)
    structure = pytree.tree_structure(example, is_leaf=lambda x: x is not example)
    if not structure.is_leaf():
        return "pytree", _set_constant(function, structure)
    fields, numbers = attributes(example), {id(child): i for i, child in enumerate(children)}
    if not {id(value) for value in fields.values()}.issuperset(numbers):
        raise ArgumentError(
            f"the results are in a {node.type.__name__}, which compiled code cannot make. "
            "Return a dict, list, tuple, namedtuple or dataclass."
        )
    # Each field is a child, by its number, or a constant, by its name.
    sources = [numbers.get(id(value), _set_constant(function, value)) for value in fields.values()]
    return "instance", (_set_constant(function, node.type), tuple(fields), tuple(sources))


def _set_constant(function: StageableFunction, x: Any) -> str:
    """Store `x` as an attribute of `function.named_graph_objects` and return its name."""
    name = f"constant{keep_object(function, x)}"
    setattr(function.named_graph_objects, name, x)
    return name


def _build(function: StageableFunction, description: Any, outputs: Sequence[torch.Tensor]) -> Any:
    """Rebuild the results, in code that Dynamo reads."""
    kind, data, child_descriptions = description
    if kind == "leaf":
        return outputs[data]
    children = [_build(function, child, outputs) for child in child_descriptions]
    if kind == "dict":
        return dict(zip(data, children, strict=True))
    if kind == "namedtuple":
        return getattr(function.named_graph_objects, data)(*children)
    if kind == "pytree":
        return pytree.tree_unflatten(children, getattr(function.named_graph_objects, data))
    if kind == "instance":
        name, fields, sources = data
        values = [
            getattr(function.named_graph_objects, x) if isinstance(x, str) else children[x]
            for x in sources
        ]
        return make_instance(getattr(function.named_graph_objects, name), fields, values)
    return {"NoneType": None, "list": children, "tuple": tuple(children)}[kind]
