"""Bridged functions in graphs that torch records: compiled, exported, or by fake tensors.

NOTE [how a call is staged]
A graph cannot hold JAX. What it holds instead is the operator `bridge::call`, with the name of the
bridged function and its arguments other than tensors as strings: they mean the same in another
process, so an exported program runs wherever the function can be imported. The operator's fake
asks JAX for shapes only. Dynamo does not look into a bridged function: it is told to trace it by
running it, with fake tensors. That registration imports all of Dynamo, so it is done when Dynamo
is at work, by a function that it runs for the sake of its constant result.
"""

import contextlib
import functools
import uuid
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from bridge._arrays.torch import dtype_name
from bridge._core.errors import ArgumentError, NoRuleError
from bridge._core.import_path import import_object, import_path
from bridge._core.protocols import StageableFunction, StagedCall
from bridge._core.serialization import decode, encode
from bridge._core.spec import ArraySpec
from bridge._targets.torch.internals import (
    guard_equal_sizes,
    in_forward_mode,
    is_differentiating,
    name_sizes,
    size_hint,
)

# Functions that cannot be imported, kept because nothing tells when the last graph is gone.
_anonymous: dict[str, Any] = {}
_PROCESS = uuid.uuid4().hex[:12]


class TensorSlot:
    """Where a tensor stands in the arguments."""


def keep_object(function: StageableFunction, thing: Any) -> int:
    """Where `thing` stands in `function.graph_objects`, for as long as there is the function."""
    for i, other in enumerate(function.graph_objects):
        if other is thing or (isinstance(thing, pytree.TreeSpec) and other == thing):
            return i
    function.graph_objects.append(thing)
    return len(function.graph_objects) - 1


def stage(
    function: StageableFunction, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[torch.Tensor], Any]:
    """The outputs of a call that is recorded as an operator, and their structure."""
    if in_forward_mode() or is_differentiating():
        raise NoRuleError(
            "a bridged function inside torch.func.grad and the like, or under forward mode, cannot "
            "be recorded in a graph. Apply the transformation outside of torch.compile."
        )
    args, kwargs = pytree.tree_map(example_of, (args, kwargs))
    leaves, structure = function.flatten(args, kwargs)
    leaves = [x if isinstance(x, torch.Tensor) else _constant(x) for x in leaves]
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    template = [TensorSlot() if isinstance(x, torch.Tensor) else x for x in leaves]
    given = structure.unflatten(leaves)
    recorded = function.record_call(*given)
    known_shapes, _ = symbolic_shapes(recorded, tensors)
    dtypes = ",".join(spec.dtype for spec in recorded.output_specs())
    # A compiler keeps what it made of a graph by the graph's text, beyond this process. So the
    # text says what the rest of the graph is compiled for: NOTE [a function that has changed].
    text = f"{_encode(function, template, structure)}|{dtypes}|{known_shapes}"
    outputs = torch.ops.bridge.call(_name_function(function), text, tensors)
    return outputs, recorded.structure


# NOTE [a function that has changed]
# An exported program, or code that a compiler kept on disk, may meet a later version of the
# function. Sizes are checked by what torch compiles, but another dtype would be read as if it were
# the old one, without an error: so it is checked when the operator runs.


def example_of(x: Any) -> Any:
    """`x`, and for a number that is not known its example, with a guard."""
    if isinstance(x, torch.SymInt):
        return int(x)
    return float(x) if isinstance(x, torch.SymFloat) else x


def staged_spec(x: torch.Tensor) -> tuple[Any, ArraySpec]:
    """Signature and spec of a tensor in a graph, unknown sizes replaced by examples."""
    shape = torch.Size([size_hint(size) for size in x.shape])
    spec = ArraySpec(tuple(shape), dtype_name(x.dtype), str(x.device))
    return (shape, x.dtype, x.device, x.layout), spec


def _constant(leaf: Any) -> Any:
    if hasattr(leaf, "__dlpack__") or (hasattr(leaf, "dtype") and not isinstance(leaf, type)):
        raise ArgumentError(
            f"a {type(leaf).__name__} among the arguments would be a constant of the recorded "
            "graph. Pass it as a tensor; a PRNG key by its key data."
        )
    return leaf


def _name_function(function: Any) -> str:
    """How the graph calls `function`: by where it is imported from, if it is."""
    name = import_path(function)
    if name is not None:
        return name
    known = (key for key, other in _anonymous.items() if other is function)
    number = f"{_PROCESS}-{len(_anonymous)}"
    name = next(known, f"{getattr(function, '__name__', '?')}#{number}")
    _anonymous[name] = function
    return name


def _find_function(name: str) -> Any:
    if "#" not in name:
        try:
            return import_object(name)
        except (ImportError, AttributeError) as error:
            raise ArgumentError(
                f"the recorded graph calls {name}, which cannot be imported here: {error}"
            ) from error
    if name in _anonymous:
        return _anonymous[name]
    raise ArgumentError(
        f"the recorded graph calls {name}, a function of another process that has no place to "
        "import it from. Wrap a function at the top of a module."
    )


def _encode(function: StageableFunction, template: Sequence[Any], structure: Any) -> str:
    """Arguments as text: by value, if a copy is as good as the thing, else by number."""
    given = structure.unflatten(template)
    with contextlib.suppress(ArgumentError):  # what has no text
        # Not by `|`, which ends the arguments in the text of a call.
        plain = structure.unflatten(function.unwrap_leaves(template))
        text = encode(plain, _KINDS).replace("|", r"\u007c")
        copies, _ = function.flatten(*_decode(text))
        pairs = zip(copies, template, strict=True)
        if all(isinstance(thing, TensorSlot) or copy == thing for copy, thing in pairs):
            return text
    return f"#{_PROCESS}-{keep_object(function, given)}"


@functools.lru_cache(maxsize=256)
def _decode(text: str) -> Any:
    return decode(text, _KINDS)


# What stands among the arguments of functions of torch besides what all have.
_KINDS: Any = {
    TensorSlot: ("hole", lambda _: 0, lambda _: TensorSlot()),
    torch.dtype: ("dtype", dtype_name, lambda name: _dtype(name)),
    torch.Size: ("size", list, torch.Size),
    torch.device: ("device", str, torch.device),
}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    if not isinstance(found, torch.dtype):
        raise ArgumentError(f"{name} is no dtype of torch.")
    return found


def bind(name: str, arguments: str, tensors: Sequence[Any]) -> tuple[StageableFunction, Any, Any]:
    """The function of this name, and the arguments with tensors in the holes."""
    function = _find_function(name)
    arguments = arguments.partition("|")[0]
    if arguments.startswith("#"):
        process, _, number = arguments[1:].partition("-")
        if process != _PROCESS:
            raise ArgumentError(
                f"the recorded graph calls {name} with an object of another process, which has no "
                "equal here. Pass numbers, strings, containers of them, enums or dataclasses."
            )
        template = function.graph_objects[int(number)]
    elif arguments.startswith("{"):
        template = _decode(arguments)
    else:
        raise ArgumentError(
            f"the recorded graph calls {name} with arguments that an earlier version of bridge "
            "has pickled, and pickles can run code. Record or export it again."
        )
    leaves, structure = function.flatten(*template)
    rest = iter(tensors)
    filled = [next(rest) if isinstance(x, TensorSlot) else x for x in leaves]
    args, kwargs = structure.unflatten(filled)
    return function, args, kwargs


def symbolic_shapes(
    recorded: StagedCall, xs: Sequence[torch.Tensor]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Shapes of the results, with names for sizes that are not known, and those sizes."""
    names, values = name_sizes(xs)
    found = recorded.symbolic_shapes(names) if names else None
    if names and found is None and guard_equal_sizes(values.values()):
        names, values = name_sizes(xs)
        found = recorded.symbolic_shapes(names)
    if found is not None:
        return found, values
    for size in values.values():
        int(size)  # a guard: this graph is for this size
    return [spec.shape for spec in recorded.output_specs()], {}
