"""Values of one framework as values of another."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bridge import _registry
from bridge._calls.rebuilding import rebuilder
from bridge._calls.wrong_framework import check_non_array
from bridge._core import pytree
from bridge._core.array_protocols import ArrayBackend
from bridge._core.errors import ArgumentError, CopyError, DeviceError, NoValuesError
from bridge._core.pure_module import ModuleState, ModuleView, module_state
from bridge._core.sharding import ProcessMesh
from bridge._core.spec import ArraySpec


def to_torch(tree: Any, *, copy: bool | None = None, mesh: Any = None) -> Any:
    """`tree` with every array in it as a tensor.

    Values cross, gradients do not: a function crosses with `jax2torch`.

    Args:
        tree: A pytree with arrays of JAX, MLX, NumPy or torch in it, or objects with `__dlpack__`,
            of any shape and of the dtypes torch has. Everything else in it is returned as it is.
        copy: `None` shares memory where it can and copies otherwise, `True` always copies,
            `False` raises where memory cannot be shared. A shared tensor is writable: changing
            it in place changes the array it came from, immutable or not, and what has the same
            memory, as equal gradients in MLX may have.
        mesh: A `DeviceMesh`. Arrays with a `NamedSharding` become DTensors on it: each process
            hands over its own shard, and nothing is sent. The mesh of an array has to have the
            same names, sizes and, at each place, as process the rank; ranks ascend along each axis.

    Returns:
        The same tree; dtypes, shapes and devices are kept.

    Raises:
        ArgumentError: For an array torch has no counterpart of, such as a PRNG key, and for
            what is no array but may be meant as one: a data frame, a module, a function. For one
            that is spread over devices without `mesh`, or in a way that DTensors have not.
        CopyError: If `copy=False` and memory cannot be shared.
        DeviceError: If a shard is not on a device of the mesh.
        OptionError: If `mesh` is no `DeviceMesh`.

    Example:
        >>> import jax.numpy as jnp
        >>> to_torch({"x": jnp.arange(3.0)})
        {'x': tensor([0., 1., 2.])}

    DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return convert(tree, "torch", copy=copy, mesh=mesh)


def to_jax(tree: Any, *, copy: bool | None = None, mesh: Any = None) -> Any:
    """`tree` with every array in it as a JAX array.

    Values cross, gradients do not: a tensor that requires grad is refused.

    Args:
        tree: A pytree with tensors or arrays in it, of any shape and of the dtypes JAX has.
            Everything else in it is returned as it is.
        copy: `None` shares memory where it can and copies otherwise, `True` always copies,
            `False` raises where memory cannot be shared. JAX takes a shared array for constant:
            do not change the tensor it came from while the array is in use.
        mesh: A `jax.sharding.Mesh`. DTensors become arrays that are sharded over it: each process
            hands over its own shard, and nothing is sent. The mesh of a DTensor has to have the
            same names, sizes and, at each place, as rank the process; ranks ascend along each axis.

    Returns:
        The same tree; dtypes, shapes and devices are kept.

    Raises:
        ArgumentError: For a tensor that requires grad, a sparse or nested one, or one of
            64 bits while JAX is in 32-bit mode. For a DTensor without `mesh`, one with partial
            sums, or one whose shards differ in size.
        CopyError: If `copy=False` and memory cannot be shared.
        DeviceError: If a shard is not on the device of the mesh.
        OptionError: If `mesh` is no `jax.sharding.Mesh`.

    Example:
        >>> import torch
        >>> to_jax([torch.arange(3.0), "name"])
        [Array([0., 1., 2.], dtype=float32), 'name']

    DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return convert(tree, "jax", copy=copy, mesh=mesh)


def to_mlx(tree: Any, *, copy: bool | None = None) -> Any:
    """`tree` with every array in it as an MLX array.

    Values cross, gradients do not: a tensor that requires grad is refused.

    Args:
        tree: A pytree with tensors or arrays in it, of any shape and of the dtypes MLX has.
            Everything else in it is returned as it is.
        copy: MLX copies what it takes from others, so that `None` and `True` are alike, and
            `False` raises.

    Returns:
        The same tree; dtypes and shapes are kept. The arrays share memory with nothing.

    Raises:
        ArgumentError: For a tensor that requires grad, a sparse or nested one, or one of a dtype
            that MLX lacks, such as complex128.
        DeviceError: For an array on a device that MLX cannot read.
        CopyError: If `copy=False`.

    Example:
        >>> import torch
        >>> to_mlx([torch.arange(3.0), "name"])
        [array([0, 1, 2], dtype=float32), 'name']

    DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return convert(tree, "mlx", copy=copy)


class _Places(NamedTuple):
    """The mesh of a target, as its framework has it and in no framework's terms."""

    mesh: Any
    processes: ProcessMesh


def convert(tree: Any, name: str, *, copy: bool | None = None, mesh: Any = None) -> Any:
    """`tree` with every array in it as one of the framework `name`."""
    to = _registry.arrays(name)
    # Whatever is in the tree, `mesh` has to be one.
    places = None if mesh is None else _Places(mesh, to.shards.describe_mesh(mesh))
    leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions, (ModuleView,))
    moved = []
    for leaf, path in zip(leaves, pytree.paths(structure), strict=True):
        owner = _registry.array_owner(leaf)
        if owner is None and (state := module_state(leaf)) is not None:
            moved.append(_restore(state, name, path, mesh))
            continue
        if owner is None or (owner is to and not copy):
            if owner is None:
                with pytree.forgetting_refused(leaf):
                    check_non_array(leaf, name, alone=not path)
            moved.append(leaf)
            continue
        try:
            moved.append(_convert_array(leaf, owner, to, copy=copy, places=places))
        except (ArgumentError, CopyError, DeviceError, NoValuesError) as error:
            leaf_name = f"leaf {pytree.format_path(path)}" if path else "the value"
            what = f"{leaf_name} cannot be converted: {error}"
            raise type(error)(what) from error.__cause__
    return rebuilder(structure, name, functools.partial(_rebuilding_error, name))(moved)


def _convert_array(
    x: Any, owner: ArrayBackend, to: ArrayBackend, *, copy: bool | None, places: _Places | None
) -> Any:
    """Convert an array as a whole or, given a mesh and where it is split, its shard."""
    piece = None if places is None or owner is to else owner.shards.split(x)
    if places is None or piece is None:
        dense = to.imports_only_contiguous
        buffer = owner.export(x, dense=dense, copy=copy, gathered=owner is not to)
        return to.convert(buffer, copy=copy)
    shard, layout = piece
    layout.check_mesh(places.processes)
    converted = _convert_array(shard, owner, to, copy=copy, places=None)
    return to.shards.join(converted, layout, places.mesh, copy=copy)


def convert_values(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Convert arrays by name; specs stand for arrays without values, and become such."""
    specs = {key: x for key, x in arrays.items() if isinstance(x, ArraySpec)}
    valueless = _registry.target_arrays(name).meta_arrays(tuple(specs.values())) if specs else ()
    others = {key: x for key, x in arrays.items() if key not in specs}
    converted = {**convert(others, name), **dict(zip(specs, valueless, strict=True))}
    return {key: converted[key] for key in arrays}


def _restore(state: ModuleState, name: str, path: Sequence[Any], mesh: Any) -> Any:
    """Make the original module of a bridged one, with the values of now."""
    framework = state.pure.framework
    if framework != name:
        where = f"leaf {pytree.format_path(path)}" if path else "the value"
        raise ArgumentError(
            f"{where} is a module of {framework}, {state.pure.__name__}, which "
            f"bridge.to_{framework} gives back."
        )
    params, buffers = (
        convert(dict(x), name, copy=True, mesh=mesh) for x in (state.params, state.buffers)
    )
    return state.pure.restore(state.modes, params, buffers)


def _rebuilding_error(name: str, kind: type, path: Sequence[Any], reason: str) -> ArgumentError:
    place = f"the container {pytree.format_path(path)}" if path else "the value"
    return ArgumentError(
        f"to_{name}: {place} is a {kind.__name__}, which cannot be rebuilt around arrays of "
        f"{name} ({reason}). Pass its arrays."
    )
