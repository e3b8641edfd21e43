"""Calls from many threads and processes at once: right, or an error that says why not."""

import os
import queue
import signal
import threading
import time
import warnings

import numpy as np
import pytest

from bridge import NoValuesError
from tests.processes import fresh_process

torch = pytest.importorskip("torch")

THREADS = 8
X = np.random.default_rng(41).uniform(0.3, 1.5, (4, 3)).astype("float32")


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


def loss(xp, x):
    return (xp.sin(x) * x).sum()


def slope(x):
    x = x.detach()
    return x.cos() * x + x.sin()


def point(i, *shape):
    """A point of its own for each thread."""
    values = torch.linspace(0.1, 1.5, int(np.prod(shape))).reshape(shape)
    return (values + 0.01 * i).requires_grad_()


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


# Processes. JAX cannot be used in a child that was forked after JAX was: it has threads, which a
# fork does not copy. Everything here runs in processes of their own, and nothing waits forever.

SECONDS = 30


def wrapped():
    import jax.numpy as jnp

    from bridge import jax2torch

    return jax2torch(lambda x: (jnp.sin(x) * x).sum())


def gradient_is_right(f, n=4):
    x = point(0, n)
    y = f(x)
    y.backward()
    return torch.allclose(y, loss(torch, x)) and torch.allclose(x.grad, slope(x))


def in_child(call):
    """What `call` returns in a forked child, its error there, or how the child ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of forks
        child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.write(writing, _outcome(call).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text if status == 0 else f"hangs (status {status})"


def _outcome(call):
    from bridge import BridgeError

    try:
        return str(call())
    except BridgeError as error:
        return f"BridgeError: {error}"
    except BaseException as error:  # noqa: BLE001, it is reported to the parent
        return f"{type(error).__name__}: {error}"


def forked_children():
    """What children make of a call, by what their parent had done before."""
    import jax.numpy as jnp

    f = wrapped()
    found = {"nothing": in_child(lambda: gradient_is_right(f))}
    found["imports"] = in_child(lambda: gradient_is_right(wrapped()))
    jnp.sin(jnp.ones(3)).block_until_ready()
    found["JAX alone"] = in_child(lambda: gradient_is_right(f))
    x = point(0, 4)
    y = f(x)
    found["the same call"] = in_child(lambda: gradient_is_right(f))
    found["another shape"] = in_child(lambda: gradient_is_right(f, 5))
    found["another function"] = in_child(lambda: gradient_is_right(wrapped()))
    found["the forward"] = in_child(lambda: torch.autograd.grad(y, x))
    found["the call, in the parent"] = str(gradient_is_right(f))
    y.backward()
    found["the forward, in the parent"] = str(torch.allclose(x.grad, slope(x)))
    return found


@pytest.fixture(scope="module")
def children():
    pytest.importorskip("jax")
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    return fresh_process(forked_children, timeout=10 * SECONDS)


@pytest.mark.parametrize("before", ["nothing", "imports"])
def test_forked_child_of_a_parent_that_has_not_used_jax(children, before):
    assert children[before] == "True"


@pytest.mark.parametrize(
    "before", ["JAX alone", "the same call", "another shape", "another function", "the forward"]
)
def test_forked_child_of_a_parent_that_has_used_jax(children, before):
    """An error that says what to write instead; a small call may happen to work, others hang."""
    assert children[before].startswith("BridgeError")
    assert "fork" in children[before]
    assert "spawn" in children[before]


@pytest.mark.parametrize("call", ["the call", "the forward"])
def test_parent_of_forked_children_goes_on(children, call):
    assert children[f"{call}, in the parent"] == "True"


class Gradients(torch.utils.data.Dataset):
    """Gradients that a worker computes; the function comes with the first of them."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = point(i, 4)
        (g,) = torch.autograd.grad(self.function()(x), x)
        return torch.stack([g, slope(x)])

    def function(self):
        if not hasattr(self, "_function"):
            self._function = wrapped()
        return self._function


def loaded_by_workers(method, before):
    """What a DataLoader with workers of this start method says of gradients computed there."""
    from torch.utils.data import DataLoader

    if before:
        assert gradient_is_right(wrapped())
    loader = DataLoader(
        Gradients(),
        num_workers=2 if method == "fork" else 1,  # which import torch and JAX anew
        multiprocessing_context=method,
        timeout=SECONDS + 15,
    )

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of forks
            batches = list(loader)
        return len(batches) == 4 and all(torch.allclose(*batch[0]) for batch in batches)

    return _outcome(load)


WORKERS = {
    "fork, JAX not used before": ("fork", False),
    "spawn": ("spawn", True),
    "forkserver": pytest.param("forkserver", True, marks=pytest.mark.slow),
}


@pytest.mark.parametrize(("method", "before"), WORKERS.values(), ids=WORKERS)
def test_workers_of_a_dataloader(method, before):
    pytest.importorskip("jax")
    assert fresh_process(loaded_by_workers, method, before) == "True"


def test_forked_workers_of_a_dataloader_after_jax_was_used():
    pytest.importorskip("jax")
    found = fresh_process(loaded_by_workers, "fork", True)
    assert found.startswith("BridgeError")
    assert "spawn" in found
