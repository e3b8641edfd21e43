"""`bridge.testing.numerical_gradient`: a gradient by differences, a tree like the arguments."""

import numpy as np
import pytest

import bridge
from bridge.testing import backend, numerical_gradient

X = np.array([[0.3, -1.2], [2.0, 5.0]])
Z = np.array([0.5 + 0.25j, -1.5 + 2j])


@pytest.fixture(params=["torch", "jax", "mlx"])
def place(request):
    """A framework that is installed, in double precision."""
    pytest.importorskip({"mlx": "mlx.core"}.get(request.param, request.param))
    kit = backend(request.param)
    with kit.double_precision():
        yield kit


def test_gradient_is_a_tree_like_the_arguments(place):
    x = {"w": place.array(X), "n": place.array([1, 2])}

    def energy(x, scale, unused):
        return (x["w"] ** 3).sum() * scale[0]

    gradient, scale, unused = numerical_gradient(energy, x, [place.array(np.array(2.0))], "text")
    assert type(gradient["w"]) is type(x["w"])
    assert gradient["w"].dtype == x["w"].dtype
    np.testing.assert_allclose(place.numpy(gradient["w"]), 6 * X**2, rtol=1e-7)
    np.testing.assert_allclose(place.numpy(scale[0]), (X**3).sum(), rtol=1e-7)
    assert gradient["n"] is None
    assert unused is None


def test_complex_gradient_is_what_the_framework_calls_it(place):
    z = place.array(Z.astype("complex64"))
    energy = lambda z: (place.xp.abs(z * z * (1 + 2j) + z) ** 2).sum()
    (found,) = numerical_gradient(energy, z)
    expected = place.numpy(place.grad(energy)(z))
    assert np.abs(expected.imag).min() > 0.5
    np.testing.assert_allclose(place.numpy(found), expected, rtol=2e-3)


def test_numpy_and_single_precision():
    (found,) = numerical_gradient(lambda x: np.sin(x).sum(), X.astype("float32"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.cos(X[0]), rtol=1e-3)
    (found,) = numerical_gradient(lambda z: (np.abs(z) ** 2).sum(), Z)
    np.testing.assert_allclose(found, 2 * Z, rtol=1e-7)


def test_step_is_the_one_that_is_asked_for():
    (found,) = numerical_gradient(lambda x: (x**3).sum(), np.array([2.0]), eps=1.0)
    np.testing.assert_allclose(found, [13.0])  # (27 - 1) / 2
    with pytest.raises(bridge.ArgumentError, match="a step of 1e-20 is lost in the rounding of"):
        numerical_gradient(lambda x: x.sum(), X, eps=1e-20)


def test_result_that_is_no_number():
    with pytest.raises(bridge.ArgumentError, match=r"the function returned float64\[2, 2\]"):
        numerical_gradient(lambda x: x, X)
    with pytest.raises(bridge.ArgumentError, match=r"the function returned complex128\[\]"):
        numerical_gradient(lambda z: z.sum(), Z)
    with pytest.raises(bridge.ArgumentError, match="the function returned nothing"):
        numerical_gradient(lambda x: (), X)


def test_arrays_of_two_frameworks():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    with pytest.raises(bridge.ArgumentError, match="arrays of one framework, not of jax and torch"):
        numerical_gradient(lambda x, y: x.sum(), torch.ones(2), jnp.ones(2))
