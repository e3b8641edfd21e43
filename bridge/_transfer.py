"""Values across: the arrays of one framework as arrays of another."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge import _registry, _tree
from bridge._errors import ArgumentError, CopyError, NoValuesError
from bridge._mixing import check_value
from bridge._op import Arrays, Op
from bridge._protocols import Fill, HomeFace, Run, RunAndKeep, Runner


def to_torch(tree: Any, *, copy: bool | None = None) -> Any:
    """`tree` with every array in it as a tensor.

    Values cross, gradients do not: a function crosses with `jax2torch`.

    Args:
        tree: A pytree with arrays of JAX, MLX, NumPy or torch in it, or objects with `__dlpack__`,
            of any shape and of the dtypes torch has. Everything else in it is returned as it is.
        copy: `None` shares memory where it can and copies otherwise, `True` always copies,
            `False` raises where memory cannot be shared. A shared tensor is writable: changing
            it in place changes the array it came from, immutable or not, and what has the same
            memory, as equal gradients in MLX may have.

    Returns:
        The same tree; dtypes, shapes and devices are kept.

    Raises:
        ArgumentError: For an array torch has no counterpart of, such as a PRNG key, and for
            what is no array but may be meant as one: a data frame, a module, a function.
        CopyError: If `copy=False` and memory cannot be shared.

    Example:
        >>> import jax.numpy as jnp
        >>> to_torch({"x": jnp.arange(3.0)})
        {'x': tensor([0., 1., 2.])}

    DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return convert(tree, "torch", copy=copy)


def to_jax(tree: Any, *, copy: bool | None = None) -> Any:
    """`tree` with every array in it as a JAX array.

    Values cross, gradients do not: a tensor that requires grad is refused.

    Args:
        tree: A pytree with tensors or arrays in it, of any shape and of the dtypes JAX has.
            Everything else in it is returned as it is.
        copy: `None` shares memory where it can and copies otherwise, `True` always copies,
            `False` raises where memory cannot be shared. JAX takes a shared array for constant:
            do not change the tensor it came from while the array is in use.

    Returns:
        The same tree; dtypes, shapes and devices are kept.

    Raises:
        ArgumentError: For a tensor that requires grad, a sparse or nested one, or one of
            64 bits while JAX is in 32-bit mode.
        CopyError: If `copy=False` and memory cannot be shared.

    Example:
        >>> import torch
        >>> to_jax([torch.arange(3.0), "name"])
        [Array([0., 1., 2.], dtype=float32), 'name']

    DLPack: https://dmlc.github.io/dlpack/latest/python_spec.html
    """
    return convert(tree, "jax", copy=copy)


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


def convert(tree: Any, name: str, *, copy: bool | None = None) -> Any:
    """`tree` with every array in it as one of the framework `name`."""
    to = _registry.arrays(name)
    leaves, structure = _tree.flatten(tree, _registry.container)
    moved = []
    for leaf, path in zip(leaves, _tree.paths(structure), strict=True):
        owner = _registry.owner(leaf)
        if owner is None or (owner is to and not copy):
            if owner is None:
                check_value(leaf, name, alone=not path)
            moved.append(leaf)
            continue
        try:
            buffer = owner.export(leaf, dense=to.dense, copy=copy, whole=owner is not to)
            moved.append(to.convert(buffer, copy=copy))
        except (ArgumentError, CopyError, NoValuesError) as error:
            leaf_name = f"leaf {_tree.label(path)}" if path else "the value"
            what = f"{leaf_name} cannot be converted: {error}"
            raise type(error)(what) from error.__cause__
    return _tree.unflatten(structure, moved)


@dataclasses.dataclass(frozen=True, slots=True)
class Carrier:
    """How Ops are evaluated for a caller: on arrays, or on buffers that a compiler handed out.

    Attributes:
        evaluate: The outputs for arrays of the caller's framework.
        evaluate_and_keep: Some of them, and all of them as they are at home.
        at_home: The arrays that Ops take.
        moves: Whether they compute on another device than that of the caller's arrays.
    """

    evaluate: Run
    evaluate_and_keep: RunAndKeep
    at_home: HomeFace
    moves: bool = False

    @property
    def fill(self) -> Fill:
        """What writes the outputs for buffers into others."""
        return self.at_home.fill


def carrier(home: str, away: str, *, device: str, computes_on: str) -> Runner:
    """How Ops of `home` are evaluated on arrays of `away` that live on `device`."""
    at_home, abroad = _registry.home(home), _registry.away(away)
    if device == "meta":
        outlined: Run = lambda op, xs: abroad.empty(op.specs())
        return Carrier(outlined, lambda op, xs, count: (outlined(op, xs)[:count], ()), at_home)

    # Made once: what follows runs on every call.
    lend, borrow = abroad.lender(computes_on), at_home.borrower(computes_on)
    release, adopt = at_home.releaser(computes_on), abroad.adopter(device)

    def run(op: Op, xs: Sequence[Any]) -> Arrays:
        return adopt(release(op.call(*borrow(lend(xs)))))

    def run_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        outputs = op.call(*borrow(lend(xs)))
        return adopt(release(outputs[:count])), outputs

    moves = computes_on not in (device, device.removesuffix(":0"))
    working = at_home.working
    if working is None:
        return Carrier(run, run_and_keep, at_home, moves)

    def work(op: Op, xs: Sequence[Any]) -> Arrays:
        with working():
            return run(op, xs)

    def work_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        with working():
            return run_and_keep(op, xs, count)

    return Carrier(work, work_and_keep, at_home, moves)
