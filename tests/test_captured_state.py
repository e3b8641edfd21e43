"""Derivatives of functions whose captured values change: they are those of the call."""

import collections
import random
import types

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch

import bridge
from bridge import mlx2torch
from tests.captured_values import number, written_in_place

WAYS = ("auto", "recompute", "save")


def rebound_in_a_dict():
    arrays = {"w": mx.array(1.0)}
    return (lambda: arrays["w"]), lambda k: arrays.update(w=mx.array(k))


def rebound_dict():
    held = {"arrays": {"w": mx.array(1.0)}}

    def change(k):
        held["arrays"]["w"] = mx.array(7.0)
        held["arrays"] = {"w": mx.array(k)}

    return (lambda: held["arrays"]["w"]), change


def rebound_in_a_closure():
    w = mx.array(1.0)

    def change(k):
        nonlocal w
        w = mx.array(k)

    return (lambda: w), change


def in_a_list():
    factors = [1.0]
    return (lambda: factors[-1]), factors.append


def of_a_module():
    scale = nn.Linear(1, 1, bias=False)
    scale.weight = mx.array([[1.0]])
    return (lambda: scale.weight[0, 0]), lambda k: scale.update({"weight": mx.array([[k]])})


def function_in_a_dict():
    functions = {"f": lambda x: x * 1.0}
    return (lambda: functions["f"](1.0)), lambda k: functions.update(f=lambda x: x * k)


def of_numpy():
    w = np.ones(2, np.float32)

    def change(k):
        w[:] = k

    return (lambda: mx.array(w)), change


CHANGES = [
    of_numpy,
    *(number, rebound_in_a_dict, rebound_dict, rebound_in_a_closure, written_in_place, in_a_list),
    *(of_a_module, function_in_a_dict),
]


@pytest.mark.parametrize("residuals", WAYS)
@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_each_gradient_is_that_of_its_call(make, residuals):
    read, change = make()
    fn = mlx2torch(lambda x: x * x * read(), residuals=residuals)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    losses = []
    for k in (1.0, 2.0, 3.0):
        change(k)
        losses.append(fn(x).sum())
    change(5.0)
    (gradient,) = torch.autograd.grad(sum(losses), x)
    torch.testing.assert_close(gradient, 12 * x.detach())
    now = read()
    assert (now.tolist() if hasattr(now, "tolist") else now) in (5.0, [5.0, 5.0])


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_higher_orders_and_transforms_are_those_of_the_call(make):
    read, change = make()
    fn = mlx2torch(lambda x: x * x * x * read())
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    change(2.0)
    y = fn(x)
    change(3.0)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, 6 * x * x)
    change(4.0)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, 12 * x.detach())
    z, pull = torch.func.vjp(fn, x.detach())
    change(5.0)
    torch.testing.assert_close(pull(torch.ones(2))[0], 12 * x.detach() ** 2)
    torch.testing.assert_close(z, 4 * x.detach() ** 3)


@pytest.mark.parametrize("residuals", WAYS)
def test_what_a_function_counts_is_of_its_call_and_counted_once(residuals):
    count, log = [0], []

    def f(x):
        count[0] += 1
        log.append(count[0])
        return x * x * len(log) * count[0]

    fn = mlx2torch(f, residuals=residuals)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    first, second = fn(x), fn(x)
    start = count[0] - 2  # trial runs
    torch.testing.assert_close(second, x * x * (start + 2) * len(log))
    for y, k, size in ((first, start + 1, len(log) - 1), (second, start + 2, len(log))):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, 2 * x.detach() * k * size)
    assert count == [start + 2]


def test_trial_runs_leave_no_trace():
    best, seen = [float("inf")], []

    def run(x):
        best[0] = min(best[0], x.sum().item())
        seen.append(x)
        return x * best[0] * len(seen)

    x = torch.tensor([200.0, 400.0], requires_grad=True)
    y = mlx2torch(run)(x)
    torch.testing.assert_close(y, 600 * x)
    assert (best, len(seen)) == ([600.0], 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.full((2,), 600.0))
    assert (best, len(seen)) == ([600.0], 1)


GENERATORS = {
    "a generator": lambda rng: rng.normal(size=2),
    "numpy": lambda _: np.random.normal(size=2),
    "random": lambda _: [random.random(), random.random()],
}


@pytest.mark.parametrize("residuals", WAYS)
@pytest.mark.parametrize("draw", GENERATORS.values(), ids=GENERATORS)
def test_a_gradient_has_the_random_numbers_of_its_call(draw, residuals):
    rng = np.random.default_rng(3)
    fn = mlx2torch(lambda x: x * mx.array(draw(rng)).astype(mx.float32), residuals=residuals)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    first, second = fn(x), fn(x)
    assert not torch.equal(first, second)
    for y in (first, second):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, y.detach() / x.detach())


def test_trial_runs_draw_no_random_numbers():
    rng = np.random.default_rng(3)
    y = mlx2torch(lambda x: x * mx.array(rng.normal(size=2)).astype(mx.float32))(torch.ones(2))
    expected = np.random.default_rng(3).normal(size=2).astype(np.float32)
    np.testing.assert_allclose(y.numpy(), expected)


class Slotted:
    __slots__ = ("n",)

    def __init__(self):
        self.n = 0


def in_slots():
    held = Slotted()

    def count():
        held.n += 1
        return held.n

    return count


def in_nested_objects():
    held = types.SimpleNamespace(inner=types.SimpleNamespace(n=0))

    def count():
        held.inner.n += 1
        return held.inner.n

    return count


def in_a_class():
    class Held:
        n = 0

    def count():
        Held.n += 1
        return Held.n

    return count


def of_a_function():
    def count():
        count.n += 1
        return count.n

    count.n = 0
    return count


def in_a_deque():
    held = collections.deque(maxlen=9)

    def count():
        held.append(mx.zeros(2))
        return len(held)

    return count


def of_an_iterator():
    numbers = iter([1, 2, 3, 4])
    return lambda: next(numbers)


def of_bytes():
    held = bytearray(1)

    def count():
        held[0] += 1
        return held[0]

    return count


COUNTERS = [in_slots, in_nested_objects, in_a_class, of_a_function, in_a_deque, of_an_iterator]


@pytest.mark.parametrize("residuals", WAYS)
@pytest.mark.parametrize("make", [*COUNTERS, of_bytes], ids=lambda make: make.__name__)
def test_every_call_counts_once_wherever_it_does(make, residuals):
    count = make()
    fn = mlx2torch(lambda x: x * count(), residuals=residuals)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    ys = [fn(x), fn(x)]
    for k, y in enumerate(ys, 1):
        torch.testing.assert_close(y, k * x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, torch.full((2,), float(k)))
    assert count() == 3


def test_what_cannot_go_back_is_refused():
    numbers = (k for k in range(9))
    with pytest.raises(bridge.ArgumentError, match=r"takes from a generator that it captures"):
        mlx2torch(lambda x: x * next(numbers))(torch.ones(2))
    assert next(numbers) == 0


class Guarded(dict):
    """A dict whose `update` means something else."""

    def update(self, *_):
        raise TypeError("no")


def with_an_equal_member():
    held = {1000.5}

    def change():
        total = sum(held)
        held.clear()
        held.add(float("1000.5"))
        return total

    return held, change


def in_another_order(kind=dict):
    held = kind(a=1.0, b=2.0)

    def change():
        first = next(iter(held.values()))
        held["a" if first == 1.0 else "b"] = held.pop("a" if first == 1.0 else "b")
        return first

    return held, change


def of_a_subclass():
    return in_another_order(Guarded)


def of_a_sorted_dict():
    return in_another_order(collections.OrderedDict)


def of_a_deque():
    held = collections.deque([1.0, 2.0])

    def change():
        held.rotate()
        return held[0]

    return held, change


KEPT = [with_an_equal_member, in_another_order, of_a_subclass, of_a_sorted_dict, of_a_deque]


@pytest.mark.parametrize("residuals", WAYS)
@pytest.mark.parametrize("make", KEPT, ids=lambda make: make.__name__)
def test_contents_of_containers_are_those_of_the_call_and_come_back(make, residuals):
    held, change = make()
    native, native_change = make()
    fn = mlx2torch(lambda x: x * change(), residuals=residuals)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    calls = []
    for _ in range(3):
        calls.append((fn(x), native_change()))
        assert [*held] == [*native]
    for y, factor in calls:
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, torch.full((2,), factor))
        assert [*held] == [*native]
