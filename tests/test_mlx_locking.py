"""Functions of MLX that call other frameworks, while others wait for their turn with MLX."""

import importlib
import math
import queue
import threading

import pytest

import bridge
from tests.processes import fresh_process

pytest.importorskip("mlx.core")
pytest.importorskip("torch")


def _frameworks(*names):
    return [importlib.import_module(name) for name in names]


def pending():
    jax, mx, torch = _frameworks("jax", "mlx.core", "torch")
    called = jax.jit(bridge.mlx2jax(lambda x: mx.sin(x) * x))
    outer = bridge.jax2mlx(lambda x: jax.numpy.sin(x) * x)
    f = bridge.mlx2torch(lambda x: outer(x) * x)
    x, there = torch.ones(2_000_000), jax.numpy.ones(2_000_000)
    called(there).block_until_ready()
    found = [float(f(x)[0])]
    for i in range(5):
        going_on = called(there + i)
        found.append(float(f(x)[0]))
        going_on.block_until_ready()
    return found


def nested():
    mx, torch = _frameworks("mlx.core", "torch")
    inner = bridge.jax2mlx(lambda y: bridge.mlx2jax(mx.sin)(y))
    return [float(bridge.mlx2torch(lambda x: inner(x))(torch.ones(100_000))[0])]


def threads():
    mx, torch = _frameworks("mlx.core", "torch")
    found = []

    def outwards(n):  # MLX calls torch, which captures a graph
        inner = bridge.torch2mlx(lambda y: torch.sin(y) * n)
        found.append(float(bridge.mlx2torch(lambda x: inner(x) / n)(torch.ones(3))[0]))

    def inwards(n):  # what torch captures calls MLX
        inner = bridge.mlx2torch(lambda x: mx.sin(x) * n)
        found.append(bridge.torch2mlx(lambda y: inner(y) / n)(mx.ones(3))[0].item())

    ended = queue.SimpleQueue()

    def run(work):
        for i in range(10):
            work(1 + i / 100)
        ended.put(None)
        threading.Event().wait()  # MLX may abort a process in which threads that used it have ended

    for work in (outwards, inwards):
        threading.Thread(target=run, args=(work,), daemon=True).start()
    for _ in range(2):
        ended.get(timeout=250)
    return found


@pytest.mark.parametrize(("work", "count"), [(pending, 6), (nested, 1), (threads, 20)])
def test_a_call_out_of_mlx_lets_others_have_their_turn(work, count):
    if work is not threads:
        pytest.importorskip("jax")
    assert fresh_process(work, timeout=300) == pytest.approx([math.sin(1)] * count)


EXITS = {
    "plain": lambda mx: (lambda x: mx.sin(x) * x, {}),
    "compiled": lambda mx: (lambda x: mx.sin(x) * x, {"compile": True}),
    "random": lambda mx: (lambda x: x * mx.random.bernoulli(0.5, x.shape), {}),
}


def exiting(name):
    jax, mx = _frameworks("jax", "mlx.core")
    function, options = EXITS[name](mx)
    f = bridge.mlx2jax(function, **options)
    arguments = {"rng": jax.random.key(3)} if name == "random" else {}
    x = jax.numpy.linspace(-2, 2, 50_000)
    slope = jax.jit(jax.grad(lambda x: f(x, **arguments).sum()))(x)
    return [float(value) for value in (slope[0], slope[-1])]


@pytest.mark.parametrize("name", EXITS)
def test_a_process_whose_xla_has_called_mlx_exits(name):
    """Its threads end after Python has: nothing that MLX keeps of Python may be theirs."""
    pytest.importorskip("jax")
    first, last = fresh_process(exiting, name)
    if name == "random":
        assert {first, last} <= {0.0, 1.0}
    else:
        slope = math.sin(2) + 2 * math.cos(2)
        assert (first, last) == pytest.approx((-slope, slope), abs=1e-5)
