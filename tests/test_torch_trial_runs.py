"""Runs of a torch function on made-up values, and runs that make graphs, leave no trace."""

import collections
import itertools
import random

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy

from bridge import ArgumentError, torch2jax  # noqa: E402

X = np.array([0.5, -1.25, 2.0], "float32")
NUMBER = 0


class Slots:
    __slots__ = ("n", "unset")

    def __init__(self):
        self.n = torch.zeros(())


class Plain:
    def __init__(self, **values):
        vars(self).update(values)


class Base:
    count = 0


class Counted(Base):
    def __call__(self, x):
        type(self).count += 1
        return x * self.count


def best():
    least = [float("inf")]

    def f(x):
        least[0] = min(least[0], x.sum().item())
        return x * least[0]

    return f, lambda: least


def logged():
    log = []

    def f(x):
        log.append(float(x.sum()))
        return x * len(log)

    return f, lambda: log


def mean_of_numpy():
    mean = np.zeros(3)

    def f(x):
        mean[:] = 0.5 * mean + x.detach().numpy()
        return x * float(mean.sum())

    return f, lambda: mean.copy()


def slots():
    state = Slots()

    def f(x):
        state.n = state.n + 1
        state.unset = x.sum().item()
        return x * state.n * state.unset

    return f, lambda: [float(state.n), hasattr(state, "unset") and state.unset]


def double_ended():
    states = collections.deque([torch.ones(()), torch.ones(())], maxlen=2)

    def f(x):
        states.append(states[-1] + 1)
        return x * states[0] + x.sum().item()

    return f, lambda: [*map(float, states)]


def class_attribute():
    counted = type("Fresh", (Counted,), {})()
    return counted, lambda: type(counted).count


def function_attribute():
    def f(x):
        f.n = f.n + x.sum().item()
        return x * f.n

    f.n = 1.0
    return f, lambda: f.n


def inside_another():
    outer = Plain(inner={"q": Plain(n=[torch.ones(())], name="a")})

    def f(x):
        outer.inner["q"].n[0] = outer.inner["q"].n[0] + 1
        outer.inner["q"].name += "b"
        return x * outer.inner["q"].n[0] * len(outer.inner["q"].name)

    return f, lambda: [float(outer.inner["q"].n[0]), outer.inner["q"].name]


def names():
    name, seen = "a", set()

    def f(x):
        nonlocal name
        name += "b"
        seen.add(x.sum().item())
        return x * len(name) * len(seen)

    return f, lambda: [name, *sorted(seen)]


def counters():
    counts = collections.Counter()

    def f(x):
        counts["calls"] += 1
        counts.update(list("ab"))
        return x * counts["calls"] * counts["b"]

    return f, lambda: [*counts.items()]


def default():
    def f(x, cache={"n": 1}):  # noqa: B006
        cache["n"] *= 2
        return x * cache["n"]

    return f, lambda: f.__defaults__[0]["n"]


def of_globals():
    def f(x):
        global NUMBER
        NUMBER += 1
        return x * NUMBER

    return f, lambda: NUMBER


def number():
    n = 0

    def f(x):
        nonlocal n
        n += 1
        return x * n

    return f, lambda: n


def iterator():
    numbers = itertools.count(1)
    return (lambda x: x * next(numbers)), lambda: repr(numbers)


def iterator_of_a_list():
    numbers = iter([1, 5, 9, 13, 17, 21, 25])
    return (lambda x: x * next(numbers)), lambda: numbers.__length_hint__()


def generator_of_python():
    draws = random.Random(3)
    return (lambda x: x * draws.random()), draws.getstate


def generator_of_numpy():
    draws = np.random.default_rng(3)
    return (lambda x: x * draws.random()), lambda: draws.bit_generator.state


def generators_of_processes():
    random.seed(3)
    np.random.seed(3)
    state = lambda: (random.getstate(), np.random.get_state()[1].tolist())
    return (lambda x: x * random.random() * np.random.rand()), state


def attribute_of_a_module():
    net = torch.nn.Linear(3, 3)
    net.calls, net.parts = 0, [Plain(n=0)]

    def f(x):
        net.calls += 1
        net.parts[0].n += 1
        return x * net.calls * net.parts[0].n

    return f, lambda: [net.calls, net.parts[0].n]


def method():
    class Stepper:
        n = 0

        def step(self, x):
            self.n += 1
            return x * self.n

    stepper = Stepper()
    return stepper.step, lambda: stepper.n


VALUES = [best, logged, mean_of_numpy, slots, double_ended, names, function_attribute]
STATES = [
    *(class_attribute, inside_another, counters, default, of_globals, number),
    *(iterator, iterator_of_a_list, generator_of_python, generator_of_numpy),
    *(generators_of_processes, attribute_of_a_module, method),
]
PLAIN = [
    *(class_attribute, counters, default, of_globals, number, iterator, iterator_of_a_list),
    *(generator_of_python, generator_of_numpy, attribute_of_a_module, method),
]


@pytest.fixture(autouse=True)
def _global_state():
    global NUMBER
    NUMBER = 0


def made(make):
    """A function and what reads its state, which starts anew, also where it is global."""
    global NUMBER
    NUMBER = 0
    return make()


def run(function, read, convert):
    """Results and states of three calls."""
    results = []
    for n in range(1, 4):
        results += [np.asarray(function(convert(n * X))), repr(read())]
    return results


def assert_same(results, expected):
    np.testing.assert_allclose(results[::2], expected[::2], rtol=1e-5)
    assert results[1::2] == expected[1::2]


@pytest.mark.parametrize("make", [*VALUES, *STATES])
def test_a_state_goes_on_from_call_to_call(make):
    expected = run(*made(make), torch.tensor)
    function, read = made(make)
    assert_same(run(torch2jax(function, capture="never"), read, jnp.asarray), expected)


def test_statistics_that_a_batch_norm_writes_go_on_from_call_to_call():
    """The schema of torch's operator names no operand that it writes to."""
    x = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]], "float32")

    def normalize(mean):
        var = torch.ones(2)
        return lambda x: 1 * torch.nn.functional.batch_norm(x, mean, var, training=True)

    expected, mean = torch.zeros(2), torch.zeros(2)
    native, there = normalize(expected), torch2jax(normalize(mean), capture="never")
    for _ in range(2):
        native(torch.tensor(x))
        there(jnp.asarray(x))
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


@pytest.mark.parametrize("make", [best, logged, mean_of_numpy, names, function_attribute])
@pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph")
def test_a_state_goes_on_where_a_graph_was_tried(make):
    expected = run(*made(make), torch.tensor)
    function, read = made(make)
    assert_same(run(torch2jax(function), read, jnp.asarray), expected)


@pytest.mark.parametrize("make", PLAIN)
@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_a_graph_keeps_the_state_of_the_first_call(make, lower):
    native, _ = made(make)
    expected = np.asarray(native(torch.tensor(X)))
    function, read = made(make)
    before = repr(read())
    there = torch2jax(function, lower=lower)
    for _ in range(2):
        np.testing.assert_allclose(there(jnp.asarray(X)), expected, rtol=1e-6)
    slopes = jax.grad(lambda x: there(x).sum())(jnp.asarray(X))
    np.testing.assert_allclose(slopes, expected / X, rtol=1e-6)
    _, tangents = jax.jvp(there, [jnp.asarray(X)], [jnp.ones(3)])
    np.testing.assert_allclose(tangents, expected / X, rtol=1e-6)
    batch = jax.vmap(there)(jnp.asarray(X)[None])
    np.testing.assert_allclose(batch[0], expected, rtol=1e-6)
    assert repr(read()) == before


@pytest.mark.parametrize("make", PLAIN)
def test_a_first_gradient_is_of_one_step(make):
    native, other = made(make)
    expected, state = np.asarray(native(torch.tensor(X))) / X, repr(other())
    function, read = made(make)
    there = torch2jax(function, capture="never")
    slopes = jax.grad(lambda x: there(x).sum())(jnp.asarray(X))
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    assert repr(read()) == state


def test_an_exception_leaves_the_state():
    log = []

    def f(x):
        log.append(1)
        raise KeyError("mine")

    for capture in ("auto", "never"):
        with pytest.raises(KeyError, match="mine"):
            torch2jax(f, capture=capture)(jnp.asarray(X))
        assert not log


def test_tensors_without_values_never_stay():
    net, log, outer = torch.nn.Linear(3, 3), [], Plain(inner={})

    def f(x):
        net.last = y = net(x)
        log.append((y, {"y": y}))
        outer.inner["y"] = y
        f.y = y
        return y

    there = torch2jax(f)
    np.testing.assert_allclose(there(X), net(torch.tensor(X)).detach(), rtol=1e-5, atol=1e-6)
    assert not hasattr(net, "last")
    assert not hasattr(f, "y")
    assert (log, outer.inner) == ([], {})


def kept_by_flag():
    state = Plain(first=True, value=None)

    def f(x):
        state.value = x if state.first else 0.5 * state.value + x
        state.first = False
        return x * state.value

    return f


def kept_in_slots():
    state = Slots()

    def f(x):
        state.n = 0.5 * state.n + x
        return x * state.n

    return f


def kept_inside():
    states = [({"state": (torch.zeros(3),)},)]

    def f(x):
        states[0][0]["state"] = (0.5 * states[0][0]["state"][0] + x,)
        return x * states[0][0]["state"][0]

    return f


@pytest.mark.parametrize("make", [kept_by_flag, kept_in_slots, kept_inside])
@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_a_state_in_tensors_that_the_next_run_reads_is_refused(make, lower):
    with pytest.raises(ArgumentError, match=r"keeps a tensor \(float32\[3\]\) of one run for the"):
        torch2jax(make(), lower=lower)(jnp.asarray(X))


def test_an_iterator_that_cannot_be_rewound_is_refused():
    numbers = (n for n in range(1, 9))
    for capture in ("auto", "never"):
        with pytest.raises(ArgumentError, match=r"takes from a generator that it captures"):
            torch2jax(lambda x: x * next(numbers), capture=capture)(jnp.asarray(X))
    assert next(numbers) == 1
