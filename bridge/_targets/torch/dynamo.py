"""What Dynamo reads where compiled code calls a bridged function.

NOTE [what Dynamo lets in and out]
Dynamo cannot read a bridged function. It is told to run it, with fake tensors, by its
`nonstrict_trace`, which takes and returns tensors and numbers. So Dynamo reads this module: here
the arguments are taken apart as it sees them, and what is neither tensor nor number is kept by a
function that it runs for a constant result, a key in place of the thing. `0 +` makes the key a
constant of the graph; without it, Dynamo would look for the place that the number came from.
Results leave as a flat list with a description, from which they are built here. An error would be
shown as an unsupported type of output. So it is the reason why another function, which Dynamo may
not compile, makes the call: with `fullgraph` Dynamo shows that reason, and without it the call is
made by Python, which raises the error as it was, or does what could not be compiled.
"""

import dataclasses
import enum
import functools
import importlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import optree
import torch
import torch.utils._pytree as pytree

from bridge._core.errors import ArgumentError
from bridge._core.protocols import StageableFunction
from bridge._core.pytree import attributes, make_instance
from bridge._targets.torch.staging import example_of, keep_object, stage

_VALUE, _DATACLASS = -1, -2
_CONSTANT = (type, types.FunctionType, types.BuiltinFunctionType, functools.partial, enum.Enum)
_SIMPLE = (str, bytes, tuple, frozenset, torch.dtype, torch.device, *_CONSTANT, type(None))


def call(function: StageableFunction, args: Any, kwargs: Any) -> Any:
    """The results of a call in compiled code: NOTE [what Dynamo lets in and out]."""
    if not torch.compiler.is_dynamo_compiling():  # next to it, such as after a graph break
        return torch.compiler.disable(function)(*args, **kwargs)
    _prepare(function)
    keys: list[int] = []
    values: list[Any] = []
    _take(function, (args, kwargs), keys, values)
    outputs, description = function.staged_function(keys, values)
    if description is None:
        return function.graph_constants.uncompiled(args, kwargs)
    return _build(function, description, outputs)


def _prepare(function: StageableFunction) -> None:
    """Let Dynamo trace `function` by running it. Imports all of Dynamo, so only when at work."""
    if function.staged_function is None:
        decorators = importlib.import_module("torch._dynamo")
        function.staged_function = decorators.nonstrict_trace(
            lambda keys, values: _run(function, keys, values)
        )


def _keep(function: StageableFunction, held: tuple[Any]) -> int:
    """The key of something that is a constant of the graph.

    It comes in a tuple: by itself, an object that compiled code has made would come without what
    its constructor has set.
    """
    return keep_object(function, held[0])


def _is_array(thing: Any) -> int:
    """Whether `thing` is an array of another framework."""
    return int(hasattr(thing, "shape") and hasattr(thing, "dtype"))


def _keep_array(function: StageableFunction, thing: Any) -> int:
    """The key of an array of another framework, which will be refused."""
    return keep_object(function, thing)


def _keep_object(function: StageableFunction, thing: Any, attributes: dict[str, Any]) -> int:
    """The same of an object with these attributes, unless compiled code has set them."""
    if getattr(thing, "__dict__", {}) != attributes or hasattr(type(thing), "__slots__"):
        return keep_object(function, _Unseen(type(thing).__name__))
    return keep_object(function, thing)


for constant in (_prepare, _keep, _is_array, _keep_array, _keep_object):
    constant._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


@dataclasses.dataclass(frozen=True)
class _Unseen:
    """An object whose attributes are known to the compiler alone."""

    name: str


def _take(function: StageableFunction, tree: Any, keys: list[int], values: list[Any]) -> None:
    """Add to `keys` what `tree` is made of, and to `values` the tensors and numbers in it."""
    leaves, structure = pytree.tree_flatten(tree)
    keys.append(0 + _keep(function, (structure,)))
    keys.append(len(leaves))
    for leaf in leaves:
        if isinstance(leaf, bool) or isinstance(leaf, _SIMPLE):  # noqa: SIM101, Dynamo's bools
            keys.append(0 + _keep(function, (leaf,)))
        elif isinstance(leaf, (torch.Tensor, int, float, complex)):
            keys.append(_VALUE)
            values.append(leaf)
        elif 0 + _is_array(leaf):
            keys.append(0 + _keep_array(function, leaf))
        elif dataclasses.is_dataclass(leaf):
            held = attributes(leaf)
            keys.append(_DATACLASS)
            keys.append(0 + _keep(function, (type(leaf),)))
            keys.append(0 + _keep(function, (tuple(held),)))
            _take(function, list(held.values()), keys, values)
        elif hasattr(leaf, "__dict__"):
            keys.append(0 + _keep_object(function, leaf, dict(leaf.__dict__)))
        else:
            keys.append(0 + _keep(function, (leaf,)))


def _given(kept: Sequence[Any], keys: Iterator[int], values: Iterator[Any]) -> Any:
    """The tree that `_take` took apart."""
    structure, count = kept[next(keys)], next(keys)
    leaves = []
    for _ in range(count):
        key = next(keys)
        if key == _VALUE:
            leaves.append(example_of(next(values)))
        elif key == _DATACLASS:
            kind, names = kept[next(keys)], kept[next(keys)]
            leaves.append(make_instance(kind, names, _given(kept, keys, values)))
        else:
            leaves.append(_checked(kept[key]))
    return structure.unflatten(leaves)


def _checked(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):  # as which NumPy arrays and scalars are traced
        raise ArgumentError(
            "a NumPy array among the arguments would be a constant of the recorded graph. "
            "Pass it as a tensor; a NumPy scalar as a number."
        )
    if isinstance(thing, _Unseen):
        raise ArgumentError(
            f"a {thing.name} among the arguments has attributes that compiled code has set, which "
            "cannot be seen from outside of it. Make it before, or make its class a dataclass."
        )
    return thing


def _run(function: StageableFunction, keys: Sequence[int], values: Sequence[Any]) -> Any:
    """What is run in place of the code above, with fake tensors."""
    try:
        args, kwargs = _given(function.graph_objects, iter(keys), iter(values))
        outputs, structure = stage(function, args, kwargs)
        return _Results(outputs, _describe(function, structure))
    except Exception as error:  # noqa: BLE001, shown or raised again by what is set here
        reason = f"{type(error).__name__}: {error}"
        call = torch.compiler.disable(lambda args, kwargs: function(*args, **kwargs), reason=reason)
        function.graph_constants.uncompiled = call
        return _Results([], None)


class _Results:
    """Flat outputs and their description, which Dynamo takes apart by what is registered below."""

    def __init__(self, outputs: Sequence[torch.Tensor], description: Any) -> None:
        self.outputs, self.description = outputs, description


pytree.register_pytree_node(
    _Results,
    lambda results: (results.outputs, results.description),
    lambda outputs, description: (list(outputs), description),
)


def _describe(function: StageableFunction, structure: Any) -> Any:
    """What `_build` needs: the kind of a node, what is known of it, and its children."""
    rest = iter(range(structure.num_leaves))

    def described(node: Any) -> Any:
        if optree.treespec_is_leaf(node):
            return "leaf", next(rest), ()
        children = tuple(map(described, node.children()))
        if node.type in (type(None), list, tuple):
            return node.type.__name__, None, children
        if node.type is dict:
            return "dict", tuple(node.entries()), children
        return (*_class(function, node), children)

    return described(structure)


def _class(function: StageableFunction, node: Any) -> tuple[str, Any]:
    """How instances of a class are built."""
    if optree.is_namedtuple_class(node.type):
        return "namedtuple", _placed(function, node.type)
    children = [object() for _ in node.children()]
    example = node.one_level().unflatten(children)
    structure = pytree.tree_structure(example, is_leaf=lambda x: x is not example)
    if not structure.is_leaf():
        return "pytree", _placed(function, structure)
    held, where = attributes(example), {id(child): i for i, child in enumerate(children)}
    if not {id(value) for value in held.values()}.issuperset(where):
        raise ArgumentError(
            f"the results are held in a {node.type.__name__}, which compiled code cannot make. "
            "Return a dict, list, tuple, namedtuple or dataclass."
        )
    places = [where.get(id(value), _placed(function, value)) for value in held.values()]
    return "instance", (_placed(function, node.type), tuple(held), tuple(places))


def _placed(function: StageableFunction, thing: Any) -> str:
    """The name of an attribute of `function.graph_constants`, where compiled code finds `thing`."""
    name = f"constant{keep_object(function, thing)}"
    setattr(function.graph_constants, name, thing)
    return name


def _build(function: StageableFunction, description: Any, outputs: Sequence[torch.Tensor]) -> Any:
    """The results again, in code that Dynamo reads."""
    kind, known, inner = description
    if kind == "leaf":
        return outputs[known]
    children = [_build(function, child, outputs) for child in inner]
    if kind == "dict":
        return dict(zip(known, children, strict=True))
    if kind == "namedtuple":
        return getattr(function.graph_constants, known)(*children)
    if kind == "pytree":
        return pytree.tree_unflatten(children, getattr(function.graph_constants, known))
    if kind == "instance":
        name, names, places = known
        held = [
            getattr(function.graph_constants, p) if isinstance(p, str) else children[p]
            for p in places
        ]
        return make_instance(getattr(function.graph_constants, name), names, held)
    return {"NoneType": None, "list": children, "tuple": tuple(children)}[kind]
