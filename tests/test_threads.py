"""Calls from many threads at once."""

import queue
import threading
import time
import warnings

import pytest

from bridge import NoValuesError

torch = pytest.importorskip("torch")

from tests.losses import X, loss, point, slope  # noqa: E402

THREADS = 8


def in_threads(work, count=THREADS):
    """What `work(i)` returns in each of `count` threads that start at once; never waits forever."""
    start = threading.Barrier(count)
    results, errors = {}, []

    def run(i):
        try:
            start.wait(30)
            results[i] = work(i)
        except BaseException as error:  # noqa: BLE001, raised again in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not [thread for thread in threads if thread.is_alive()], "threads hang"
    for error in errors:
        raise error
    return [results[i] for i in range(count)]


SHAPES = {"one shape": lambda i: (50,), "many shapes": lambda i: (5 + i, 3)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_threads_call_one_function(into_torch, shape):
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))

    def work(i):
        wrong = 0
        for k in range(40):
            x = point(i + k, *shape(i))
            value = f(x)
            (g,) = torch.autograd.grad(value, x)
            right = torch.allclose(value, loss(torch, x)) and torch.allclose(g, slope(x))
            wrong += not right
        return wrong

    assert in_threads(work) == [0] * THREADS


def test_threads_call_one_function_with_arrays_that_jax_computes_in_the_background(into_torch):
    source, wrap = into_torch
    f = wrap(source.xp.sin)

    def work(i):
        x = torch.full((500_000,), 0.1 * i).requires_grad_()
        wrong = 0
        for _ in range(5):
            y = f(x)
            (g,) = torch.autograd.grad(y.sum(), x)
            right = torch.allclose(y[::61], x[::61].sin()) and torch.allclose(
                g[::61], x[::61].cos()
            )
            wrong += not right
        return wrong

    assert in_threads(work) == [0] * THREADS


# Without forward mode: the levels of torch.func.jvp are those of the process in torch 2.13, so
# that two threads disturb each other in native functions, too.
FIRST = {
    "value": (lambda f, x: f(x.detach()), lambda x: loss(torch, x.detach())),
    "gradient": (lambda f, x: torch.autograd.grad(f(x), x)[0], slope),
    "functional gradient": (lambda f, x: torch.func.grad(f)(x.detach()), slope),
    "batch": (
        lambda f, x: torch.func.vmap(f)(x.detach()[None]),
        lambda x: loss(torch, x.detach())[None],
    ),
    "second order": (
        lambda f, x: torch.autograd.grad(
            torch.autograd.grad(f(x), x, create_graph=True)[0].sum(), x
        )[0],
        lambda x: 2 * x.detach().cos() - x.detach().sin() * x.detach(),
    ),
}


@pytest.mark.parametrize(("call", "expected"), FIRST.values(), ids=FIRST)
def test_first_call_of_all_threads_at_once(into_torch, call, expected):
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))
    points = [point(i, 4) for i in range(THREADS)]
    found = in_threads(lambda i: call(f, points[i]).detach())
    torch.testing.assert_close(found, [expected(x) for x in points])


def test_first_calls_at_once_with_a_shape_each(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))
    points = [point(i, i + 1) for i in range(THREADS)]
    found = in_threads(lambda i: torch.autograd.grad(f(points[i]), points[i])[0])
    torch.testing.assert_close(found, [slope(x) for x in points])


@pytest.mark.needs("one trace")
def test_first_calls_at_once_are_one_trace_for_each_shape(into_torch):
    """A trace can take minutes, so that the others wait for the first, and nobody warns."""
    source, wrap = into_torch
    traced, together = [], threading.Barrier(THREADS)

    def slow(x):
        traced.append(len(x))
        time.sleep(0.05)
        return loss(source.xp, x)

    def work(i):
        for n in (2, 3, 4):
            together.wait(30)
            f(point(i, n))

    f = wrap(slow)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        in_threads(work)
    assert traced == [2, 3, 4]
    assert [str(warning.message) for warning in caught] == []


def test_function_that_calls_itself_while_it_is_traced_does_not_wait_for_itself(into_torch):
    source, wrap = into_torch
    f = wrap(
        lambda x: x * source.array(f(torch.ones(3)).numpy()) if x.ndim > 1 else source.xp.sin(x)
    )
    if source.name == "mlx":  # as a function that looks at values, it can
        assert in_threads(lambda i: f(torch.ones(1, 3)), count=1)[0].shape == (1, 3)
        return
    with pytest.raises(NoValuesError, match="Call the JAX function itself there"):
        in_threads(lambda i: f(torch.tensor(X)), count=1)


def test_first_calls_of_many_functions_at_once(into_torch):
    """Each thread brings a function and a container class that nobody has met."""
    import dataclasses

    source, wrap = into_torch
    kinds = [dataclasses.make_dataclass(f"Kind{i}", ["x"]) for i in range(THREADS)]

    def work(i):
        f = wrap(lambda node: kinds[i](loss(source.xp, node.x) * i))
        x = point(i, 3)
        return torch.autograd.grad(f(kinds[i](x)).x, x)[0]

    expected = [slope(point(i, 3)) * i for i in range(THREADS)]
    torch.testing.assert_close(in_threads(work), expected)


def test_structures_of_results_are_not_mixed_up(into_torch):
    """What a call returns depends on its arguments, not on those of another thread."""
    source, wrap = into_torch
    f = wrap(lambda tree: {name: source.xp.sin(x) for name, x in tree.items()})

    def work(i):
        names = [f"{name}{i % 3}" for name in "abc"[: 1 + i % 3]]
        found = set()
        for _ in range(20):
            found.add(tuple(f({name: torch.tensor(X) for name in names})))
        return found == {tuple(names)}

    assert all(in_threads(work))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_in_some_threads_and_backward_in_others(into_torch, dtype):
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))
    rounds, line = 25, queue.Queue()

    def forward(i):
        for k in range(rounds):
            x = point(i + k, 3 + i).detach().to(dtype).requires_grad_()
            line.put((x, f(x)))
        return 0

    def backward():
        wrong = 0
        for _ in range(rounds):
            x, y = line.get(timeout=30)
            y.backward()
            wrong += not torch.allclose(x.grad, slope(x))
        return wrong

    half = THREADS // 2
    assert in_threads(lambda i: forward(i) if i < half else backward()) == [0] * THREADS


def test_one_graph_differentiated_by_many_threads(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))
    x = point(0, 5)
    y = f(x)
    found = in_threads(lambda i: torch.autograd.grad(y * (i + 1), x, retain_graph=True)[0])
    torch.testing.assert_close(found, [slope(x) * (i + 1) for i in range(THREADS)])


def test_call_inside_of_the_backward_of_another(into_torch):
    """A hook may call what it likes."""
    source, wrap = into_torch
    f = wrap(lambda x: loss(source.xp, x))
    x, seen = point(0, 4), []

    def hook(g):
        z = point(1, 4)
        with torch.enable_grad():
            seen.append((torch.autograd.grad(f(z), z)[0], slope(z)))
        return g

    h = x * 1
    h.register_hook(hook)
    f(h).backward()
    torch.testing.assert_close(x.grad, slope(x))
    torch.testing.assert_close(*seen[0])
