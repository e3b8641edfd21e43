"""Calls from MLX in many threads, and the memory that thousands of them take."""

import threading

import numpy as np
import pytest

from tests.processes import fresh_process, needs_proc, resident

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
from bridge import torch2mlx  # noqa: E402
from tests.mlx_transforms import inner  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])


def test_threads_transform_at_once():
    bridged, failures = torch2mlx(lambda x: torch.sin(x) * x), []

    def work(seed):
        x = mx.random.normal((8,), key=mx.random.key(seed))
        want = -np.sin(x) * x + 2 * np.cos(x)
        for _ in range(20):
            if not np.allclose(inner(inner(bridged))(x), want, atol=1e-5):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_thread_within_a_transformation_never_loses_the_gradient():
    bridged = torch2mlx(lambda x: x**2)

    def elsewhere(x):
        mx.eval(x)
        found = []
        thread = threading.Thread(target=lambda: found.append(bridged(x)))
        thread.start()
        thread.join()
        return found[0].sum()

    value, gradient = mx.value_and_grad(elsewhere)(X)
    np.testing.assert_allclose(gradient, 2 * X, rtol=1e-6)
    with pytest.raises(RuntimeError, match="in current thread"):  # as with functions of MLX
        mx.eval(value)


def growth_of_calls(most):
    """Megabytes that so many calls take, after 1,000."""
    bridged = torch2mlx(lambda x, w: (torch.tanh(x @ w), x.sum()))
    x, w = mx.ones((8, 16)), mx.ones((16, 16)) * 0.1
    chain, step = x, mx.value_and_grad(lambda w: (bridged(x, w)[0] ** 2).sum())
    sizes = []
    for count in (1_000, most):
        for i in range(count):
            chain = bridged(chain, w)[0]
            if not i % 10:
                mx.eval(step(w))
        sizes.append(resident())
    return sizes[1] - sizes[0]


@needs_proc
@pytest.mark.parametrize("count", [9_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_thousands_of_calls_take_no_memory(count):
    assert fresh_process(growth_of_calls, count, timeout=1200) < 5


def peak_of_large_arrays():
    """Megabytes that the gradient of a function of 64 MB takes at most, and keeps."""
    bridged = torch2mlx(torch.sin)
    mx.eval(mx.grad(lambda x: bridged(x).sum())(X))  # imports what captures functions
    x = mx.ones((16 * 2**20,))
    mx.eval(x)
    mx.set_cache_limit(0)
    before = resident()
    gradient = mx.grad(lambda x: bridged(x).sum())(x)
    mx.eval(gradient)
    ok = bool(np.allclose(np.array(gradient)[:5], np.cos(1)))
    del gradient
    return ok, resident() - before


@needs_proc
def test_large_arrays_are_let_go():
    right, kept = fresh_process(peak_of_large_arrays)
    assert right
    assert kept < 32
