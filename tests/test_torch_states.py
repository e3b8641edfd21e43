"""Functions of torch that keep a state and run anew: runs on made-up values leave it alone."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy

from bridge import torch2jax  # noqa: E402

X = np.array([0.5, -1.25, 2.0], "float32")
GLOBAL = torch.zeros(3)


def closed():
    state = torch.zeros(3)

    def f(x):
        nonlocal state
        state = 0.5 * state + x
        return (state * x).sum()

    return f


def rebound(x):
    global GLOBAL
    GLOBAL = 0.5 * GLOBAL + x
    return (GLOBAL * x).sum()


def written():
    state = torch.zeros(3, 2)

    def f(x):
        state[:, 1].mul_(0.5).add_(x.detach())
        return ((state[:, 1] + x - x.detach()) * x).sum()

    return f


def memory():
    cache = {}

    def f(x):
        cache["state"] = 0.5 * cache["state"] + x if "state" in cache else x
        return (cache["state"] * x).sum()

    return f


class Leaky(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(3))
        self.last = None

    def forward(self, x):
        self.state = 0.5 * self.state + x
        self.last = self.state if self.last is None else self.last + 0 * x
        return (self.state * x).sum()


def queue():
    states = [torch.zeros(3)]

    def f(x):
        states.append(0.5 * states.pop() + x)
        return (states[-1] * x).sum()

    return f


def taken():
    states = {"state": torch.zeros(3)}

    def f(x):
        new = 0.5 * states.pop("state" if "state" in states else "other") + x
        states["other"] = new
        return (new * x).sum()

    return f


def module():
    leaky = Leaky()
    return lambda x: leaky(x)


STATES = {
    "closure": closed,
    "global": lambda: rebound,
    "written": written,
    "dictionary": memory,
    "list": queue,
    "dictionary under another name": taken,
    "module": module,
}


@pytest.fixture(autouse=True)
def _global_state():
    global GLOBAL
    GLOBAL = torch.zeros(3)


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_a_state_goes_on_from_call_to_call(make):
    there = torch2jax(make(), capture="never")
    states, state = [], 0
    for n in range(1, 4):
        state = 0.5 * state + n * X
        states.append((state * n * X).sum())
    values = [float(there(jnp.asarray(n * X))) for n in range(1, 4)]
    np.testing.assert_allclose(values, states, rtol=1e-6)


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_a_first_gradient_is_of_one_step(make):
    there = torch2jax(make(), capture="never")
    value, slope = jax.value_and_grad(there)(jnp.asarray(X))  # of x * x: the state was 0
    np.testing.assert_allclose(value, (X * X).sum(), rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * X, rtol=1e-6)


def test_other_objects_are_as_they_were_too():
    calls = []
    there = torch2jax(lambda x: (calls.append(1), x * 2)[1], capture="never")
    for n in range(1, 3):
        there(jnp.asarray(X))
        assert len(calls) == n  # not once more on made-up values
