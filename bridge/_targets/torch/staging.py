"""Bridged functions in graphs that torch records: compiled, exported, or with fake tensors.

NOTE [how a call is staged]
A graph cannot contain JAX. It contains the operator `bridge::call` instead, with two strings: the
name of the bridged function, and its arguments other than tensors. They mean the same in another
process, so that an exported program runs wherever the function can be imported. The operator's fake
implementation only asks JAX for shapes. Dynamo does not read a bridged function, but runs it with
fake tensors: NOTE [what Dynamo lets in and out].
"""

import contextlib
import functools
import uuid
from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch import dtype_name
from bridge._arrays.torch.upstream.call_sites import in_derivative_transform, in_forward_mode
from bridge._arrays.torch.upstream.compilers import (
    guard_any_equal_sizes,
    name_sizes,
    saved_for_backward,
    size_hint,
)
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._core.errors import ArgumentError, NoRuleError
from bridge._core.function_protocols import StageableFunction, StagedCall
from bridge._core.import_path import import_object, import_path
from bridge._core.serialization import decode, encode
from bridge._core.spec import ArraySpec

# Functions that cannot be imported; stored forever, since nothing tells when no graph refers to
# them any more.
_anonymous: dict[str, Any] = {}
_PROCESS = uuid.uuid4().hex[:12]


class TensorSlot:
    """The place of a tensor among the arguments."""


def keep_object(function: StageableFunction, x: Any) -> int:
    """Store `x` in `function.graph_objects`, as long as the function lives; return its index."""
    for i, other in enumerate(function.graph_objects):
        if other is x or (isinstance(x, pytree.TreeSpec) and other == x):
            return i
    function.graph_objects.append(x)
    return len(function.graph_objects) - 1


def stage(
    function: StageableFunction, args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[list[torch.Tensor], Any]:
    """Record a call as an operator; return its outputs and their structure."""
    if in_forward_mode() or in_derivative_transform():
        raise NoRuleError(
            "a bridged function inside torch.func.grad and the like, or under forward mode, cannot "
            "be recorded in a graph. Apply the transformation outside of torch.compile."
        )
    args, kwargs = pytree.tree_map(specialize_number, (args, kwargs))
    with saved_for_backward():
        kwargs = function.add_seed(args, kwargs)  # drawn in the graph, anew in each run of it
        args = function.copy_buffers(args, _copy)
    leaves, structure = function.flatten(args, kwargs)
    leaves = [x if isinstance(x, torch.Tensor) else _check_constant(x) for x in leaves]
    if function.is_lowered:
        _specialize_sizes(leaves)
        return function.call_lowered(*structure.unflatten(leaves))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    template = [TensorSlot() if isinstance(x, torch.Tensor) else x for x in leaves]
    args, kwargs = structure.unflatten(leaves)
    staged_call = function.make_staged_call(args, kwargs)
    known_shapes, _ = symbolic_shapes(staged_call, tensors)
    dtypes = ",".join(spec.dtype for spec in staged_call.output_specs())
    # A compiler caches a compiled graph by its text, beyond this process. So the text says what the
    # rest of the graph is compiled for: NOTE [a function that has changed].
    text = f"{_encode_arguments(function, template, structure)}|{dtypes}|{known_shapes}"
    outputs = torch.ops.bridge.call(_name_function(function), text, tensors)
    return outputs, staged_call.structure


def _copy(buffers: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Copy by an operator of ours; compilers would read the original instead of a clone."""
    if not buffers or not torch.is_grad_enabled():
        return buffers
    return torch.ops.bridge.copy([x.detach() for x in buffers])


# NOTE [a function that has changed]
# An exported program, or compiled code in a cache on disk, may meet a later version of the
# function. Code of torch checks sizes, but would read another dtype as if it were the old one,
# without an error: so the dtype is checked when the operator runs.


def specialize_number(x: Any) -> Any:
    """Return `x`; for a symbolic number its example, which adds a guard."""
    if isinstance(x, torch.SymInt):
        return int(x)
    return float(x) if isinstance(x, torch.SymFloat) else x


def _specialize_sizes(leaves: Sequence[Any]) -> None:
    """Add guards for the sizes of tensors: lowered code is for the shapes that it was made for."""
    for x in leaves:
        for size in x.shape if isinstance(x, torch.Tensor) else ():
            int(size)


def staged_signature_and_spec(x: torch.Tensor) -> tuple[Any, ArraySpec]:
    """Return signature and spec of a tensor in a graph, with examples for symbolic sizes."""
    shape = torch.Size([size_hint(size) for size in x.shape])
    spec = ArraySpec(tuple(shape), dtype_name(x.dtype), str(x.device))
    return (shape, x.dtype, x.device, x.layout), spec


def _check_constant(leaf: Any) -> Any:
    """Return an argument that is no tensor; raise if it is an array of another framework."""
    if hasattr(leaf, "__dlpack__") or (hasattr(leaf, "dtype") and not isinstance(leaf, type)):
        raise ArgumentError(
            f"a {type(leaf).__name__} among the arguments would be a constant of the recorded "
            "graph. Pass it as a tensor; a PRNG key by its key data."
        )
    return leaf


def _name_function(function: Any) -> str:
    """Return a name for graphs: the import path of `function`, or a number if it has none."""
    name = import_path(function)
    if name is not None:
        return name
    known_names = (key for key, other in _anonymous.items() if other is function)
    number = f"{_PROCESS}-{len(_anonymous)}"
    name = next(known_names, f"{getattr(function, '__name__', '?')}#{number}")
    _anonymous[name] = function
    return name


def find_function(name: str) -> StageableFunction:
    """Return the function that `_name_function` gave this name; raise if there is none."""
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


def _encode_arguments(function: StageableFunction, template: Sequence[Any], structure: Any) -> str:
    """Return arguments as text: by value, if a copy is equal to the original, else by number."""
    with contextlib.suppress(ArgumentError):  # some values have no text
        plain = structure.unflatten(function.unwrap_static_leaves(template))
        text = encode(plain, _KINDS).replace("|", r"\u007c")  # `|` ends the arguments of a call
        copies, _ = function.flatten(*_decode(text))
        pairs = zip(copies, template, strict=True)
        if all(isinstance(original, TensorSlot) or copy == original for copy, original in pairs):
            return text
    return f"#{_PROCESS}-{keep_object(function, structure.unflatten(template))}"


@functools.lru_cache(maxsize=256)
def _decode(text: str) -> Any:
    return decode(text, _KINDS)


# Kinds of values that only functions of torch have among their arguments.
_KINDS: Any = {
    TensorSlot: ("hole", lambda _: 0, lambda _: TensorSlot()),
    torch.dtype: ("dtype", dtype_name, lambda name: _dtype(name)),
    torch.Size: ("size", list, torch.Size),
    torch.device: ("device", str, torch.device),
}


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ArgumentError(f"{name} is no dtype of torch.")
    return dtype


def bind(name: str, arguments: str, tensors: Sequence[Any]) -> tuple[StageableFunction, Any, Any]:
    """Return the function of this name, and its arguments with `tensors` in their slots."""
    function = find_function(name)
    arguments = arguments.partition("|")[0]
    if arguments.startswith("#"):
        process, _, number = arguments[1:].partition("-")
        if process != _PROCESS:
            raise ArgumentError(
                f"the recorded graph calls {name} with an object of another process, which this "
                "process lacks. Pass numbers, strings, containers of them, enums or dataclasses."
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
    values = iter(tensors)
    leaves = [next(values) if isinstance(x, TensorSlot) else x for x in leaves]
    args, kwargs = structure.unflatten(leaves)
    return function, args, kwargs


def symbolic_shapes(
    staged_call: StagedCall, xs: Sequence[torch.Tensor]
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the shapes of the results with names for symbolic sizes, and these sizes by name."""
    names, values = name_sizes(xs)
    shapes = staged_call.symbolic_shapes(names) if names else None
    if names and shapes is None and guard_any_equal_sizes(values.values()):
        names, values = name_sizes(xs)
        shapes = staged_call.symbolic_shapes(names)
    if shapes is not None:
        return shapes, values
    for size in values.values():
        int(size)  # adds a guard: this graph is for this size
    return [spec.shape for spec in staged_call.output_specs()], {}
