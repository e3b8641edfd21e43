"""Calls of functions on NumPy arrays: memory, executors, threads, copies, states of autograd."""

import copy
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import vmap  # noqa: E402
from torch.utils import checkpoint  # noqa: E402

from bridge import numpy2torch  # noqa: E402
from bridge.rules import ComplexStep, FiniteDifference, ParameterShift, Vjp  # noqa: E402
from tests import numpy_functions  # noqa: E402

X = np.array([0.3, 1.7, -0.6])


def leaf(x=X, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype, requires_grad=True)


def assert_gradient_of_sine(f, x, of=lambda y: y):
    of(f(x)).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("vectorized", [False, True])
def test_arguments_can_be_changed_and_kept(vectorized):
    kept = []

    def fn(x):
        y = np.sin(x)
        kept.append(x)
        for old in kept:
            old[:] = 50
        return y

    x = leaf(np.stack([X, 2 * X]))
    assert_gradient_of_sine(
        vmap(numpy2torch(fn, gradient=ParameterShift(), vectorized=vectorized)), x
    )
    assert x.tolist() == np.stack([X, 2 * X]).tolist()
    assert len({old.ctypes.data for old in kept}) == len(kept)


def test_a_single_point_can_be_changed():
    def fn(x):
        x *= 2
        return np.sin(x / 2)

    assert_gradient_of_sine(numpy2torch(fn, gradient=ParameterShift(), vectorized=True), leaf())


def test_arguments_of_own_gradients_can_be_changed():
    def gradient(primals, cotangents, outputs):
        result = cotangents * outputs
        primals[0][:] = cotangents[:] = outputs[:] = 50
        return result

    f, x, w = numpy2torch(np.exp, gradient=Vjp(gradient)), leaf(), torch.ones(3, dtype=float)
    y = f(x)
    y.backward(w, retain_graph=True)
    torch.testing.assert_close(x.grad, x.detach().exp())
    torch.testing.assert_close(y, x.exp())
    assert w.tolist() == [1, 1, 1]


def returns_one_buffer(shape=(3,)):
    buffer = np.zeros(shape)

    def fn(x):
        buffer[:] = np.sin(x)
        return buffer, buffer

    return fn


def test_the_same_buffer_can_be_returned_again():
    f, x = numpy2torch(returns_one_buffer(), gradient=ParameterShift()), leaf()
    a, b = f(x)
    f(2 * x)
    a += 1.0
    torch.testing.assert_close(b, x.sin())
    batch = torch.stack([x.detach(), 3 * x.detach()])
    torch.testing.assert_close(vmap(f)(batch)[1], batch.sin())


@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_same_buffer_can_be_returned_in_another_thread(batch_size):
    fn = returns_one_buffer((3,) if batch_size is None else (batch_size, 3))
    with ThreadPoolExecutor(1) as executor:
        f = numpy2torch(
            fn, executor=executor, vectorized=batch_size is not None, batch_size=batch_size
        )
        batch = torch.linspace(0, 1, 600, dtype=torch.float64).reshape(200, 3)
        torch.testing.assert_close(vmap(f)(batch)[0], batch.sin())


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.T,
        lambda x: x.T.conj(),
        lambda x: x.T.conj().imag,
        lambda x: x.real[:1].expand(2, 3).T,
        lambda x: torch.cat([x, x], 1).real[:, ::2].T,
    ],
)
def test_layouts_of_arguments(make):
    x = make(
        torch.complex(torch.arange(6.0).reshape(2, 3), -(torch.arange(6.0).reshape(2, 3) ** 2))
    )
    weights = np.arange(1.0, 7).reshape(3, 2)
    actual = numpy2torch(lambda x: x * weights)(x)
    torch.testing.assert_close(actual, x * torch.tensor(weights), check_dtype=False)


# Executors.


def test_points_run_in_threads_in_their_order():
    names = set()

    def fn(x):
        names.add(threading.current_thread().name)
        time.sleep(0.004 * float(x[0] < 0.5))  # the first points end last
        return np.sin(x)

    with ThreadPoolExecutor(3, "points") as executor:
        f = numpy2torch(fn, gradient=ParameterShift(), executor=executor)
        assert_gradient_of_sine(vmap(f), leaf(np.stack([X, X + 0.7, X - 0.4])))
    assert any(name.startswith("points") for name in names)


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_points_run_in_processes(processes):
    f = numpy2torch(numpy_functions.sines, gradient=ParameterShift(), executor=processes)
    assert_gradient_of_sine(f, leaf(), lambda y: y["sin"])


def test_generators_reach_processes(processes):
    keys, x = torch.arange(4).reshape(2, 2), torch.tensor(np.stack([X, -X]))
    there, here = (
        vmap(lambda x, k, f=f: f(x, rng=k))(x, keys)
        for f in (
            numpy2torch(numpy_functions.noisy_sine, executor=processes, out=np.empty(3)),
            numpy2torch(numpy_functions.noisy_sine),
        )
    )
    assert there.tolist() == here.tolist()
    assert not torch.isclose(there, x.sin()).any()


def test_a_first_call_in_processes_has_the_structure_of_results(processes):
    x = torch.tensor(np.stack([X, 2 * X]))
    y = vmap(numpy2torch(numpy_functions.sines, executor=processes))(x)
    assert isinstance(y, dict)
    torch.testing.assert_close(y["more"][0], x.sum(1))


def test_decorated_functions_run_in_processes(processes, monkeypatch):
    monkeypatch.setattr(numpy_functions.ELSEWHERE, "executor", processes)
    assert_gradient_of_sine(numpy_functions.decorated_sine, leaf())


def test_errors_of_processes_have_notes(processes):
    f = numpy2torch(numpy_functions.refuses_large, gradient=ParameterShift(), executor=processes)
    y = f(leaf())
    with pytest.raises(ValueError, match="too large") as caught:
        y.sum().backward()
    assert "x[1] shifted by 1.5708" in caught.value.__notes__[-1]


def test_calls_of_one_function_never_run_at_the_same_time():
    running, peak = [], []

    def fn(x):
        running.append(x)
        peak.append(len(running))
        time.sleep(0.001)
        running.pop()
        return np.sin(x)

    f = numpy2torch(fn, gradient=ParameterShift())
    leaves = [leaf(X + n) for n in range(8)]
    with ThreadPoolExecutor(4) as callers:
        list(callers.map(lambda x: assert_gradient_of_sine(f, x), leaves))
    assert set(peak) == {1}
    assert f.evaluations == f.calls == len(peak) == 8 * 7


# Copies.


def test_pickles_have_counters_of_their_own_and_no_executor():
    rules = {"x": ParameterShift((1, 2))}
    with ThreadPoolExecutor(1) as executor:
        f = numpy2torch(numpy_functions.sine, gradient=rules, executor=executor)
        f(leaf())
        other = pickle.loads(pickle.dumps(f))
    assert copy.deepcopy(f) is f
    assert_gradient_of_sine(other, leaf())
    assert (f.evaluations, other.evaluations, other.calls) == (1, 13, 13)


# States of autograd.


@pytest.mark.parametrize(
    "rule",
    [
        ParameterShift(),
        FiniteDifference(),
        FiniteDifference(strategy="forward"),
        ComplexStep(),
        Vjp(lambda p, c, y: c * np.cos(p[0])),
    ],
)
def test_arguments_that_changed_before_backward_are_refused(rule):
    f, x = numpy2torch(np.sin, gradient=rule), leaf() * 1
    y = f(x)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("rule", [FiniteDifference(strategy="forward"), Vjp(lambda p, c, y: c * y)])
def test_results_that_changed_before_backward_are_refused(rule):
    y = numpy2torch(np.exp, gradient=rule)(leaf())
    z = y * 1
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_hooks_checkpoints_and_anomaly_mode():
    f, x, seen = numpy2torch(np.sin, gradient=ParameterShift()), leaf(), []
    x.register_hook(lambda g: seen.append(g.clone()))
    with torch.autograd.detect_anomaly(check_nan=True):
        assert_gradient_of_sine(lambda x: checkpoint.checkpoint(f, x, use_reentrant=False), x)
    torch.testing.assert_close(seen, [x.detach().cos()])
    assert f.evaluations == 1 + 1 + 6  # a checkpoint computes the value again


def test_nan_passes_through():
    def fn(x):
        return np.sin(x), np.full(2, np.nan) * x[0]

    f, x = numpy2torch(fn, gradient=ParameterShift()), leaf([0.3, np.nan, 1.1])
    y, nothing = f(x)
    assert [*y.isnan().tolist(), *nothing.isnan().tolist()] == [False, True, False, True, True]
    x = leaf()
    f(x)[1].sum().backward()
    assert x.grad.isnan().any()
    x.grad = None
    f(x)[0].sum().backward()  # a result without a use does not spoil it
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_modes_without_gradients():
    f, x = numpy2torch(np.sin), leaf()
    with torch.no_grad():
        assert not f(x).requires_grad
    with torch.inference_mode():
        assert f(x).is_inference()
    assert f(torch.empty(3, device="meta")).device.type == "meta"


def test_what_a_function_does_to_its_arguments_does_not_reach_its_own_gradient():
    """At shifted points, the outputs that the gradient takes are computed before it."""

    def cubes(x):
        x *= x * x
        return x.sum(-1)

    gradient = Vjp(lambda xs, w, y: 3 * xs[0] ** 2 * w[:, None], then=FiniteDifference(accuracy=4))
    f = numpy2torch(cubes, gradient=gradient, vectorized=True)
    x = torch.tensor([0.5, -2.0], dtype=torch.float64)
    torch.testing.assert_close(torch.func.hessian(f)(x), torch.diag(6 * x), rtol=0, atol=1e-8)
