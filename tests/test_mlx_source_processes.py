"""Functions of MLX in threads, in forked processes, and over many calls."""

import gc
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from bridge import NoValuesError, mlx2jax, mlx2torch, to_mlx, to_torch, torch2mlx

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")


def in_threads(work, count):
    """What `work` returns for each number, from as many threads; the first error is raised."""
    found, errors = {}, []

    def run(i):
        try:
            found[i] = work(i)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]
    return [found[i] for i in range(count)]


def layer(x):
    return mx.tanh(x * x) * mx.sin(x)


@pytest.mark.parametrize("how", [{"residuals": "save"}, {"residuals": "recompute"}], ids=str)
def test_eight_threads_at_once(how):
    f = mlx2torch(layer, **how)

    def work(i):
        for k in range(20):
            x = torch.linspace(-1, i + k / 20, 5 + i, requires_grad=True)
            native = x.detach().clone().requires_grad_()
            f(x).sum().backward()
            (torch.tanh(native * native) * torch.sin(native)).sum().backward()
            torch.testing.assert_close(x.grad, native.grad)
        return True

    assert all(in_threads(work, 8))


def test_a_backward_pass_in_another_thread():
    x = torch.tensor([0.3, -1.25], requires_grad=True)
    y = mlx2torch(mx.sin, residuals="save")(x).sum()
    in_threads(lambda _: y.backward(), 1)
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_threads_draw_from_keys_of_their_own():
    f = mlx2torch(lambda x: mx.random.bernoulli(0.5, x.shape) * x)
    keys = [torch.tensor(i) for i in range(8)]
    x = torch.ones(32)
    expected = [f(x, rng=key) for key in keys]
    torch.testing.assert_close(in_threads(lambda i: f(x, rng=keys[i]), 8), expected)


def test_an_array_that_another_thread_has_put_off_is_refused():
    weight = mx.sin(mx.ones(3))
    with pytest.raises(NoValuesError, match=r"made in one thread.*mx\.eval"):
        in_threads(lambda _: mlx2torch(lambda x: x * weight)(torch.ones(3)), 1)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of Linux")
@pytest.mark.parametrize("what", ["mlx2torch", "mlx2jax", "torch2mlx", "to_torch", "to_mlx"])
def test_no_thread_of_the_system_stays_for_one_of_python(what):
    row, f, sine = mx.ones(3), mlx2torch(layer), torch2mlx(torch.sin)
    mx.eval(row)
    calls = {
        "mlx2torch": lambda: f(torch.ones(3, requires_grad=True)).sum().backward(),
        "torch2mlx": lambda: sine(row),
        "to_torch": lambda: to_torch(row),
        "to_mlx": lambda: to_mlx(torch.ones(3)),
    }
    if what == "mlx2jax":
        jax = pytest.importorskip("jax")
        slope = jax.jit(jax.grad(lambda x: mlx2jax(layer)(x).sum()))
        calls[what] = lambda: slope(jax.numpy.ones(3)).block_until_ready()
    work = lambda _: calls[what]()
    in_threads(work, 2)
    before = len(os.listdir("/proc/self/task"))
    for _ in range(10):
        in_threads(work, 2)
    # A thread that was joined may be listed for a moment yet, and JAX may have begun some.
    assert len(os.listdir("/proc/self/task")) < before + 10


def run(code, timeout=120):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of Linux")
def test_quirk_each_thread_of_python_leaves_one_of_the_system():
    # In a process of its own, in which no others end meanwhile.
    code = """
        import os, threading, mlx.core as mx
        work = lambda: mx.eval(mx.sin(mx.ones(3)))
        work()
        counts = []
        for _ in range(2):
            counts.append(len(os.listdir("/proc/self/task")))
            for _ in range(5):
                thread = threading.Thread(target=work)
                thread.start()
                thread.join()
        print(counts[1] - counts[0], flush=True)
        os._exit(0)
    """
    # Threads of Python that were joined may be listed for a moment yet.
    assert int(run(code)[0]) >= 5


def test_the_first_call_of_a_function_that_converts_its_argument():
    """That is a look at its values, for which there is no derivative."""
    code = """
        import torch, mlx.core as mx
        from bridge import ArgumentError, mlx2torch, to_mlx, to_torch

        f = mlx2torch(lambda x: x * to_mlx(torch.sin(to_torch(2 * x))))
        x = torch.tensor([0.3, -1.25], requires_grad=True)
        y = f(x)
        torch.testing.assert_close(y.detach(), x.detach() * torch.sin(2 * x.detach()))
        try:
            y.sum().backward()
        except ArgumentError as error:
            print("lose its gradient" in str(error), flush=True)
    """
    assert run(code) == ["True"]


FORKED = """
    import os, signal, torch, mlx.core as mx
    from bridge import mlx2torch, to_mlx, to_torch

    f = mlx2torch(lambda x: mx.sin(x) * x, residuals="save")
    x = torch.ones(3, requires_grad=True)
    y = f(x).sum()
    mx.eval(mx.sin(mx.ones(3)))
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        {work}
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    y.backward()
    print(round(x.grad[0].item(), 4))
"""
IN_CHILD = {
    "call": "assert abs(f(x)[0].item() - 0.8415) < 1e-4",
    "gradient": "f(x).sum().backward(); assert abs(x.grad[0].item() - 1.3818) < 1e-4",
    "backward of a call in the parent": "y.backward(); assert abs(x.grad[0] - 1.3818) < 1e-4",
    "values": "assert to_torch(mx.sin(to_mlx(torch.ones(2)))).sum() > 1.6",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("work", IN_CHILD.values(), ids=IN_CHILD)
def test_a_forked_child_computes(work):
    assert run(FORKED.format(work=work)) == ["1.3818"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_quirk_a_forked_child_of_mlx_alone_waits_forever():
    code = """
        import os, signal, mlx.core as mx
        mx.eval(mx.sin(mx.ones(3)))
        child = os.fork()
        if child == 0:
            signal.alarm(3)
            mx.eval(mx.sin(mx.ones(3)))
            os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    assert run(code) == ["14"]  # SIGALRM


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [{"residuals": "save"}, {"compile": True}], ids=str)
def test_thousands_of_calls_leave_nothing(how, count):
    f = mlx2torch(layer, **how)

    def steps(count):
        for _ in range(count):
            f(torch.ones(1000, requires_grad=True)).sum().backward()
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4, mx.get_active_memory()

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("reads the memory of a process of Linux")
    resident, active = steps(1000)
    after, active_after = steps(count)
    assert active_after <= active
    assert after - resident < 4000  # KiB; one array of 1,000 numbers a call would be 20,000


def test_functions_that_come_and_go_leave_nothing():
    def steps(count):
        for _ in range(count):
            f = mlx2torch(lambda x: mx.sin(x) * x, compile=True)
            f(torch.ones(64, requires_grad=True)).sum().backward()
        gc.collect()
        return mx.get_active_memory()

    before = steps(20)
    assert steps(200) <= before


ENDING = """
import threading
import mlx.core as mx
import torch

def first():
    from bridge import mlx2torch
    x = torch.ones(3, requires_grad=True)
    mlx2torch(lambda x: (mx.sin(x) * x).sum())(x).backward()

threads = [threading.Thread(target=first) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_a_process_ends_well_after_first_calls_in_threads_that_have_ended():
    for _ in range(2):
        process = subprocess.run(
            [sys.executable, "-c", ENDING], capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.slow  # a race, which a machine with nothing else to do may win
def test_quirk_a_process_aborts_where_a_thread_that_has_ended_had_a_key():
    code = """
import threading
import mlx.core as mx

threads = [threading.Thread(target=lambda: mx.random.state[0]) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    runs = [
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        for _ in range(12)
    ]
    assert any(run.returncode for run in runs)
