"""Threads that share functions, graphs and their gradients."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.tensors import leaves  # noqa: E402

RANDOM = np.random.default_rng(12)
X = RANDOM.uniform(0.3, 1.5, (4, 3)).astype("float32")
Y = RANDOM.uniform(-1.5, 1.5, (4, 3)).astype("float32")


def in_thread(fn):
    """What `fn` returns in a thread of its own, or raises there."""
    found = []

    def run():
        try:
            found.append((fn(), None))
        except Exception as error:  # noqa: BLE001, raised again in the test's own thread
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert found, "the thread hangs"
    value, error = found[0]
    if error is not None:
        raise error
    return value


def test_forward_in_one_thread_and_backward_in_another(into_torch):
    source, wrap = into_torch
    x, y = leaves(X, Y)
    f = wrap(lambda x, y: (source.xp.sin(x) * y * y).sum())
    loss = in_thread(lambda: f(x, y))
    found = in_thread(lambda: torch.autograd.grad(loss, (x, y)))
    expected = x.detach().cos() * y.detach() ** 2, 2 * x.detach().sin() * y.detach()
    torch.testing.assert_close(found, expected)


def test_second_order_over_threads(into_torch):
    source, wrap = into_torch
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    f = wrap(lambda x: source.xp.sin(x).sum())
    loss = in_thread(lambda: f(x))
    (g,) = in_thread(lambda: torch.autograd.grad(loss, x, create_graph=True))
    (second,) = in_thread(lambda: torch.autograd.grad(g.sum(), x))
    torch.testing.assert_close(second, -x.detach().sin())


def test_many_threads_call_one_function_for_the_first_time(into_torch):
    """All of them meet an untraced function at once."""
    source, wrap = into_torch
    f = wrap(lambda x: (source.xp.sin(x) * x).sum())
    start = threading.Barrier(8)
    found, expected = {}, {}

    def work(i):
        x = torch.full((3,), 0.1 * i, requires_grad=True)
        start.wait(60)
        for _ in range(5):
            (found[i],) = torch.autograd.grad(f(x), x)
        expected[i] = (x.cos() * x + x.sin()).detach()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8
    torch.testing.assert_close(found, expected)


def test_threads_with_different_precision(into_torch):
    """64-bit mode belongs to a call, not to the process."""
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) + source.xp.zeros(3))
    start = threading.Barrier(2)
    found = {torch.float32: [], torch.float64: []}

    def work(dtype):
        start.wait(60)
        for _ in range(30):
            x = torch.full((3,), 0.3, dtype=dtype, requires_grad=True)
            y = f(x)
            y.sum().backward()
            found[dtype] += [y.dtype, x.grad.dtype]

    threads = [threading.Thread(target=work, args=(dtype,)) for dtype in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {dtype: set(seen) for dtype, seen in found.items()} == {
        torch.float32: {torch.float32},
        torch.float64: {torch.float64},
    }
    assert all(len(seen) == 60 for seen in found.values())
