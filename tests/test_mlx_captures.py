"""Functions of MLX that change arrays that they capture: refused, and nothing is left behind."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import numpy as np
import torch

import bridge
from bridge import mlx2jax, mlx2torch

X = torch.tensor([0.3, -1.25, 0.7])
total = mx.zeros(3)
written = mx.zeros(3)


def replaces_a_global():
    def f(x):
        global total
        total = total + x
        return 2 * x

    return f, lambda: total, "total"


def writes_to_a_global():
    def f(x):
        written[0] = x[0]
        return 2 * x

    return f, lambda: written, "written"


def replaces_in_a_closure():
    seen = mx.zeros(3)

    def f(x):
        nonlocal seen
        seen = seen + x
        return 2 * x

    return f, lambda: seen, "seen"


def adds_in_place():
    seen = mx.zeros(3)

    def f(x):
        nonlocal seen
        seen += x
        return 2 * x

    return f, lambda: seen, "seen"


def counts():
    count = mx.zeros(3)

    def f(x):
        nonlocal count
        count = count + 1
        return 2 * x

    return f, lambda: count, "count"


def replaces_in_a_dict():
    state = {"h": mx.zeros(3)}

    def f(x):
        state["h"] = state["h"] + x
        return 2 * x

    return f, lambda: state["h"], r"dict\['h'\]"


def writes_in_a_list():
    state = [mx.zeros(3)]

    def f(x):
        state[0][1:] = x[1:]
        return 2 * x

    return f, lambda: state[0], r"list\[0\]"


class Memory:
    def __init__(self):
        self.h = mx.zeros(3)

    def __call__(self, x):
        self.h = self.h + x
        return 2 * x


def replaces_in_itself():
    memory = Memory()
    return memory, lambda: memory.h, r"Memory\['h'\]"


def replaces_in_an_object():
    memory = Memory()

    def f(x):
        memory.h = memory.h + x
        return 2 * x

    return f, lambda: memory.h, r"Memory\['h'\]"


def within_a_function():
    inner, value, name = replaces_in_a_closure()
    return lambda x: inner(x) + 1, value, name


CHANGES = [
    *(replaces_a_global, writes_to_a_global, replaces_in_a_closure, adds_in_place, counts),
    *(replaces_in_a_dict, writes_in_a_list, replaces_in_itself, replaces_in_an_object),
    within_a_function,
]


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("looks", [False, True], ids=["graph", "looks at values"])
def test_changed_arrays_are_refused_and_left_as_they_were(make, looks):
    fn, value, name = make()
    bridged = mlx2torch(lambda x: fn(x) * (2 if not looks or x[0].item() < 9 else 1))
    for _ in range(2):
        with pytest.raises(
            bridge.ArgumentError, match=f"changes an array that it captures, {name}"
        ):
            bridged(X)
        assert value().tolist() == [0.0] * 3


def test_changed_arrays_are_refused_in_jax():
    jax = pytest.importorskip("jax")
    fn, value, name = replaces_in_a_closure()
    with pytest.raises(bridge.ArgumentError, match=f"captures, {name}"):
        jax.jit(mlx2jax(fn))(jax.numpy.ones(3))
    assert value().tolist() == [0.0] * 3


def test_state_that_goes_round_is_the_way():
    step = mlx2torch(lambda x, state: (2 * x, state + x))
    y, state = step(X, torch.zeros(3))
    y, state = step(X, state)
    torch.testing.assert_close((y, state), (2 * X, 2 * X))


def test_what_a_function_puts_aside_can_be_evaluated():
    kept, cache = [], {}

    def f(x):
        kept.append(2 * x)
        if "mask" not in cache:
            cache["mask"] = mx.array([1.0, 0.0, 1.0])
        return kept[-1] * cache["mask"]

    torch.testing.assert_close(mlx2torch(f)(X), 2 * X * torch.tensor([1.0, 0.0, 1.0]))
    assert [x.tolist() for x in kept] == [(2 * X).tolist()]
    assert cache["mask"].tolist() == [1.0, 0.0, 1.0]


def test_arrays_that_stay_are_captured_as_ever():
    weight, lazy, names = mx.array([1.0, 2.0, 3.0]), mx.exp(mx.zeros(3)), {"w": mx.ones(3)}

    def f(x):
        local = weight * names["w"]
        local[0] = x[0]
        return local * lazy

    torch.testing.assert_close(mlx2torch(f)(X), torch.tensor([X[0], 2.0, 3.0]))
    assert weight.tolist() == [1.0, 2.0, 3.0]


def test_an_error_leaves_arrays_as_they_were():
    fn, value, _ = replaces_in_a_closure()

    def f(x):
        fn(x)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mlx2torch(f)(X)
    assert value().tolist() == [0.0] * 3


@pytest.mark.parametrize("residuals", ["recompute", "save"])
def test_arrays_put_aside_where_nobody_finds_them_are_refused(residuals):
    state = np.array([None])

    def f(x):
        state[0] = x if state[0] is None else state[0] + x
        return state[0] * x

    x = X.clone().requires_grad_()
    with pytest.raises(bridge.ArgumentError, match=r"stored when it ran.*as an argument"):
        mlx2torch(f, residuals=residuals)(x)
