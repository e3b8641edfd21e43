"""Checks that a user can run on a function of their own."""

from collections.abc import Callable
from typing import Any

from bridge import _registry, _tree
from bridge._errors import ArgumentError


def check_gradients(
    fn: Callable[..., Any],
    *args: Any,
    order: int = 2,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    **kwargs: Any,
) -> None:
    """Raise unless the derivatives of `fn` agree with finite differences.

    Reverse mode, forward mode and, for `order=2`, the gradient of the gradient are checked, by the
    checker of the framework that the arguments belong to, at the values they have; in MLX, which
    has none, along one random direction.

    Args:
        fn: A function, bridged or not.
        *args: Its arguments, pytrees. Every floating-point tensor in them is differentiated: they
            must be of double precision, since finite differences have half the digits.
        order: 1 for gradients, 2 for gradients of gradients as well.
        eps: Step of the finite differences.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        **kwargs: Keyword arguments of `fn`, checked likewise.

    Raises:
        ArgumentError: If no array among the arguments can be differentiated.
        RuntimeError: If a derivative is wrong, with both values (torch's `GradcheckError`);
            an `AssertionError` where the arguments are of JAX or MLX.

    Example:
        >>> import torch, jax.numpy as jnp
        >>> from bridge import jax2torch
        >>> from bridge.testing import check_gradients
        >>> check_gradients(jax2torch(jnp.tanh), torch.tensor([0.3, -1.2], dtype=torch.float64))

    `torch.autograd.gradcheck`: https://docs.pytorch.org/docs/stable/autograd.html
    """
    leaves, structure = _tree.flatten((args, kwargs), _registry.container)
    owners = [_registry.owner(leaf) for leaf in leaves]
    at = [i for i, face in enumerate(owners) if face and face.spec(leaves[i]).differentiable]
    names = {face.name for i in at if (face := owners[i])}
    if len(names) != 1:
        raise ArgumentError(
            f"check_gradients needs floating-point arrays of one framework, not of {sorted(names)}."
        )

    def flat(*free: Any) -> tuple[Any, ...]:
        positional, named = _tree.unflatten(structure, _tree.spread(free, at, leaves))
        outputs = _tree.flatten(fn(*positional, **named), _registry.container)[0]
        faces = [_registry.owner(y) for y in outputs]
        return tuple(
            y
            for y, face in zip(outputs, faces, strict=True)
            if face and face.spec(y).differentiable
        )

    target = _registry.target(names.pop())
    target.check_gradients(
        flat, [leaves[i] for i in at], order=order, eps=eps, atol=atol, rtol=rtol
    )
