"""Comparing a function of torch that comes from elsewhere with one that is all torch."""

import torch

close = torch.testing.assert_close
TOLERANCE = {"atol": 1e-10, "rtol": 0.0}


def assert_agrees(function, truth, points, *shared, **tolerance):
    """Compare values and derivatives of first and second order, at each point and for all at once.

    `points` has the points along its first axis, for the first argument; `shared` are the others.
    """
    tolerance = TOLERANCE | tolerance
    argnums = tuple(range(1 + len(shared)))
    in_dims = (0, *(None for _ in shared))
    for derive in (lambda f: f, *_derivatives(argnums)):
        expected = torch.vmap(derive(truth), in_dims=in_dims)(points, *shared)
        # What all of it is compared with must not be zero, or a lost term would go unseen.
        assert all(part.abs().max() > 1e-2 for part in torch.utils._pytree.tree_leaves(expected))
        one_by_one = [derive(function)(point, *shared) for point in points]
        at_once = torch.vmap(derive(function), in_dims=in_dims)(points, *shared)
        close(at_once, expected, **tolerance)
        close(_stacked(one_by_one), expected, **tolerance)
    close(_backward(function, points, shared), _backward(truth, points, shared), **tolerance)


def _derivatives(argnums):
    jacrev, jacfwd = torch.func.jacrev, torch.func.jacfwd
    return (
        lambda f: jacrev(f, argnums=argnums),
        lambda f: jacfwd(f, argnums=argnums),
        lambda f: jacrev(jacrev(f, argnums=argnums), argnums=argnums),
    )


def _stacked(trees):
    return torch.utils._pytree.tree_map(lambda *parts: torch.stack(parts), *trees)


def _backward(function, points, shared):
    """Gradients, and gradients of their squares, of a loss that weighs all results differently."""
    arguments = [x.clone().requires_grad_() for x in (points, *shared)]
    results = torch.vmap(function, in_dims=(0, *(None for _ in shared)))(*arguments)
    weights = torch.linspace(0.5, 2.0, results.numel(), dtype=results.dtype)
    loss = (weights * results.flatten() ** 2).sum()
    first = torch.autograd.grad(loss, arguments, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), arguments)
    return tuple(first), second
