"""Batches of points, arrays without elements, and results that change their shape."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import vmap  # noqa: E402

from bridge import ArgumentError, numpy2torch  # noqa: E402
from bridge.rules import SPSA, ComplexStep, FiniteDifference, ParameterShift  # noqa: E402


def test_batches_have_a_largest_size():
    sizes = []

    def fn(x):
        sizes.append(len(x))
        return np.sin(x).sum(-1)

    f = numpy2torch(fn, gradient=ParameterShift(), vectorized=True, batch_size=4)
    x = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    vmap(f)(x).sum().backward()
    assert sizes == [4, 2] + 9 * [4]
    assert (f.evaluations, f.calls) == (42, 11)
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_arguments_that_do_not_vary_take_no_memory():
    strides = []

    def fn(x, w):
        strides.append((x.strides[0], w.strides[0], x.shape[0], w.shape[0]))
        return np.sin(x).sum(-1) + w[:, 0]

    f = numpy2torch(fn, vectorized=True)
    vmap(f, (0, None))(torch.ones(6, 3, dtype=torch.float64), torch.ones(1000))
    assert strides == [(24, 0, 6, 6)]


@pytest.mark.parametrize(
    "rule", [SPSA(), ParameterShift(), FiniteDifference(), ComplexStep()], ids=str
)
def test_arguments_without_elements(rule):
    x = torch.zeros(0, 2, dtype=torch.float64, requires_grad=True)
    numpy2torch(np.sin, gradient=rule)(x).sum().backward()
    assert x.grad.shape == (0, 2)


def test_shapes_do_not_change_between_batches_of_points():
    def fn(x):
        return np.zeros((len(x), 2 if x[0, 0] > 1 else 1))

    f = numpy2torch(fn, vectorized=True, batch_size=2)
    with pytest.raises(ArgumentError, match="fn returned"):
        vmap(f)(torch.tensor([[0.1], [0.2], [1.3], [1.4]]))


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(
    "rule",
    [ParameterShift(), FiniteDifference(), FiniteDifference(strategy="forward"), SPSA()],
    ids=str,
)
def test_empty_batches(rule, vectorized):
    f = numpy2torch(lambda x, w: np.sin(x + w), gradient=rule, vectorized=vectorized)
    x = torch.zeros(0, 2, dtype=torch.float64, requires_grad=True)
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    y = vmap(f, (0, None))(x, w)
    assert y.shape == (0, 2)
    y.sum().backward()
    assert x.grad.shape == (0, 2)
    assert w.grad.tolist() == [0, 0]
