"""The op is right in each framework, and the same in all of them."""

import importlib
import importlib.util

import numpy as np
import pytest

from bridge import testing

X = np.array([-300.0, -1.5, 0.0, 0.25, 40.0], dtype="float32")


def op(name):
    return importlib.import_module(f"log_cosh_{name}").log_cosh


@pytest.mark.backends(dtypes=["float32", "float64"], layouts=["contiguous", "strided"])
def test_values(backend):
    x = X.astype("float64")
    found = backend.numpy(op(backend.name)(backend.array(X)))
    assert found.dtype == backend.dtype
    np.testing.assert_allclose(found, np.logaddexp(x, -x) - np.log(2), rtol=1e-5)


def test_gradient_and_curvature(backend):
    gradient = backend.grad(lambda x: op(backend.name)(x).sum())
    curvature = backend.grad(lambda x: gradient(x).sum())
    x = backend.array(X)
    np.testing.assert_allclose(backend.numpy(gradient(x)), np.tanh(X), rtol=1e-5)
    np.testing.assert_allclose(backend.numpy(curvature(x)), 1 - np.tanh(X) ** 2, atol=1e-6)


@pytest.mark.backends("jax", "mlx")
def test_compiled(backend):
    x = backend.array(X)
    compiled = backend.numpy(backend.compile(op(backend.name))(x))
    np.testing.assert_allclose(compiled, backend.numpy(op(backend.name)(x)), rtol=1e-5)


def test_the_same_everywhere():
    ops = {name: op(name) for name in ("torch", "jax", "mlx") if importlib.util.find_spec(name)}
    if len(ops) < 2:
        pytest.skip("one framework alone is installed")
    print(testing.check_same(**ops, args=(X,), required=("vjp", "jvp", "vmap")))
