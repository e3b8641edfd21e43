"""Ops of functions of torch that look at values, and so are executed anew for each call."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge._core.errors import ArgumentError, NoRuleError, NoValuesError  # noqa: E402
from tests.torch_ops import close, cube, like, op, recorded  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.2, 0.7, 1.6], dtype=DOUBLE)


def branch(x):
    return x * 2 if x.sum() > 0 else x.sin()


LOOKING = {
    "if": branch,
    "item": lambda x: x * x.sum().item(),
    "numpy": lambda x: x * torch.from_numpy(np.cos(x.detach().numpy())),
    "shape": lambda x: x.sum() * len(torch.unique(x.detach().round())),
    "list": lambda x: x * torch.tensor(x.tolist(), dtype=x.dtype),
}


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_runs_anew(fn):
    with pytest.warns(UserWarning, match="f cannot be captured as a graph") as caught:
        f = op(fn, X, capture="auto")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (X, -X.abs(), X.abs()):
            close(f.call(x), [fn(x)])
            c = like(fn(x), 3)
            gradients = f.derive("vjp", (0,), (0,))
            close(gradients.call(x, c), recorded(fn, [x], (0,), (0,), [c]))
            twice = gradients.derive("vjp", (0, 1), (0,)).call(x, c, X)
            free, ct = x.clone().requires_grad_(), c.clone().requires_grad_()
            (first,) = torch.autograd.grad(fn(free), free, ct, create_graph=True)
            expected = torch.autograd.grad((first * X).sum(), (free, ct), allow_unused=True)
            expected = [torch.zeros_like(X) if g is None else g for g in expected]
            close(twice, expected)


def test_what_looks_at_values_has_tangents():
    f = op(branch, X, capture="never")
    for x in (X.abs(), -X.abs()):
        expected = torch.func.jvp(branch, (x,), (X,))[1]
        close(f.derive("jvp", (0,)).call(x, X), [expected])


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_can_be_refused(fn):
    with pytest.raises(NoValuesError, match="f cannot be captured as a graph"):
        op(fn, X, capture="require")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op(fn, X, capture="never").call(X)


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_is_batched_example_by_example(fn):
    f = op(fn, X, capture="never")
    rows = torch.stack([X, -X.abs(), X.abs() + 1])
    batch = f.derive("vmap", (1,), 3)
    close(batch.call(rows.mT), [torch.stack([fn(x) for x in rows])])
    cotangents = torch.stack([like(fn(x), 3) for x in rows])
    pairs = zip(rows, cotangents, strict=True)
    expected = [recorded(fn, [x], (0,), (0,), [c])[0] for x, c in pairs]
    (found,) = batch.derive("vjp", (0,), (0,)).call(rows.mT, cotangents)
    close([found.mT], [torch.stack(expected)])
    of_gradient = f.derive("vjp", (0,), (0,)).derive("vmap", (0, 0), 3)
    close(of_gradient.call(rows, cotangents), [torch.stack(expected)])


def test_tangents_of_gradients_of_what_looks_at_values():
    fn = lambda x: x**3 if x.sum() > 0 else x.sin()
    gradient = op(fn, X, capture="never").derive("vjp", (0,), (0,))
    tangents = gradient.derive("jvp", (0, 1))
    for x, first, second in (
        (X.abs(), 3 * X**2, 6 * X.abs()),
        (-X.abs(), X.cos(), X.abs().sin()),
    ):
        c, dx, dc = X.cos(), X.exp(), X.sin()
        close(tangents.call(x, c, dx, dc), [second * dx * c + first * dc])
        batch = tangents.derive("vmap", (None, None, 0, 0), 2)
        expected = second * dx * c + first * dc
        found = batch.call(x, c, torch.stack([dx, dx * 2]), torch.stack([dc, dc * 2]))
        close(found, [torch.stack([expected, 2 * expected])])


def test_hooks_in_what_looks_at_values_act_in_batches():
    def hooked(x):
        y = x * 1 if x.sum() > 0 else x * 2
        if y.requires_grad:
            y.register_hook(lambda g: g * 10)
        return y.sin()

    rows = torch.stack([X.abs(), -X.abs()])
    gradients = op(hooked, X, capture="never").derive("vmap", (0,), 2).derive("vjp", (0,), (0,))
    expected = torch.stack([10 * X.abs().cos(), 20 * (2 * X.abs()).cos()])
    close(gradients.call(rows, torch.ones_like(rows)), [expected])


@pytest.mark.parametrize("seen", [True, False])
def test_tangents_that_torch_ignores_are_refused_where_values_are_looked_at(seen):
    """torch.func.jvp has zeros for an operator of torch.library."""
    f = op(lambda x: cube(x) * x if seen or x.sum() > 100 else x * x, X, capture="never")
    x = X.abs() + 100
    close(f.derive("vjp", (0,), (0,)).call(x, X), [4 * x**3 * X])
    close([torch.func.jvp(cube, (x,), (X,))[1]], [0 * X])
    with pytest.raises(NoRuleError, match="no jvp of f: tangents and gradients disagree"):
        f.derive("jvp", (0,)).call(x, X)
    (second,) = f.derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,)).call(x, X, X)
    close([second], [12 * x**2 * X**2])


def test_results_of_another_shape_than_inferred():
    f = op(lambda x: x[x > 0], X, capture="never")
    with pytest.raises(ArgumentError, match=r"f returned \(float64\[1\]\) for these values, but"):
        f.call(torch.tensor([1.0, -1, -1, -1], dtype=DOUBLE))
