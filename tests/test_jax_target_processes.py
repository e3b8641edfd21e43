"""Functions of torch in programs of JAX: on several devices, in forks, and when a process ends."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

START = """
import os
import gc, threading, time
import numpy as np
import jax, jax.numpy as jnp, torch
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.handmade import into_jax

AUTO = jax.sharding.AxisType.Auto
jax.config.update("jax_enable_x64", True)
A = torch.tensor([[1.0, 2.0], [-0.5, 3.0]], dtype=torch.float64)
f = into_jax(lambda x, w: torch.tanh(x @ A) * w, name="f", keep=True)
g = lambda x, w: jnp.tanh(x @ jnp.asarray(A.numpy())) * w
x, w = jnp.linspace(-1, 1, 16).reshape(8, 2), jnp.array([0.5, -1.5])

def equal(mine, native):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    jax.tree.map(close, mine, native)
"""


def run(code, *, start=START, timeout=240, **env):
    """What a process prints that runs `code`."""
    process = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


FOUR = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}


@pytest.mark.parametrize("check", ["True", "False"])
def test_shard_map_on_four_devices(check):
    run(
        f"""
        mesh = jax.make_mesh((4,), ("i",), axis_types=(AUTO,))
        def loss(h):
            def inside(x, w):
                return lax.psum((h(x, w) ** 2).sum(), "i")
            mapped = jax.shard_map(
                inside, mesh=mesh, in_specs=(P("i"), P()), out_specs=P(), check_vma={check}
            )
            return mapped
        for transform in (
            lambda h: h,
            lambda h: jax.grad(h, (0, 1)),
            lambda h: jax.jit(jax.value_and_grad(h, (0, 1))),
            lambda h: lambda x, w: jax.jvp(h, (x, w), (x, w)),
            lambda h: jax.jit(jax.hessian(h, 1)),
            lambda h: jax.vmap(h, (None, 0)),
        ):
            second = jnp.stack([w, 2 * w]) if "vmap" in str(transform.__code__.co_names) else w
            equal(transform(loss(f))(x, second), transform(loss(g))(x, second))
        """,
        **FOUR,
    )


def test_pmap_and_sharded_arguments_on_four_devices():
    run(
        """
        parts = x.reshape(4, 2, 2)
        equal(jax.pmap(f, in_axes=(0, None))(parts, w), jax.pmap(g, in_axes=(0, None))(parts, w))
        grad = lambda h: jax.grad(lambda x, w: (h(x, w) ** 2).sum(), (0, 1))
        parallel = lambda h: jax.pmap(grad(h), in_axes=(0, None))
        equal(parallel(f)(parts, w), parallel(g)(parts, w))
        mesh = jax.make_mesh((4,), ("i",), axis_types=(AUTO,))
        spread = jax.device_put(x, NamedSharding(mesh, P("i")))
        equal(f(spread, w), g(x, w))
        equal(jax.jit(grad(f))(spread, w), grad(g)(x, w))
        third = jax.devices()[3]
        assert f(jax.device_put(x, third), jax.device_put(w, third)).devices() == {third}
        """,
        **FOUR,
    )


def test_large_arrays_on_four_devices_do_not_wait_for_one_another():
    run(
        """
        h = into_jax(lambda x: x * 2, name="h")
        mesh = jax.make_mesh((4,), ("i",), axis_types=(AUTO,))
        inside = lambda x: h(x) * 0.5
        step = jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=P("i"), out_specs=P("i")))
        y = jax.device_put(jnp.ones(1 << 20), NamedSharding(mesh, P("i")))
        for _ in range(30):
            y = step(y)
        equal(y, jnp.ones(1 << 20))
        """,
        **FOUR,
    )


@pytest.mark.parametrize("devices", [1, 4])
def test_a_process_ends_cleanly_with_a_call_in_flight(devices):
    printed = run(
        """
        def slow(x):
            time.sleep(0.5)
            print("done", flush=True)
            return x + 1
        h = jax.jit(into_jax(slow, name="slow"))
        big = jnp.ones(1 << 18)
        jax.block_until_ready(h(big))
        for device in jax.devices():
            y = h(jax.device_put(big, device))
        threading.Thread(target=lambda: h(big), daemon=True).start()
        time.sleep(0.1)
        """,
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
    )
    assert printed.count("done") >= devices + 1


def test_a_child_forked_off_before_jax_is_used():
    process = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.split() == ["0.84", "0.84", "0"]


FORK = """
import os, torch
from tests.handmade import into_jax

f = into_jax(torch.sin, name="f", keep=True)
child = os.fork()
os.write(1, f"{f(1.0):.2f}\\n".encode())  # at once, where two `print` could mix
if child:
    print(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("eager", [False, True], ids=["jit", "eager"])
def test_functions_are_freed_with_their_programs(eager):
    run(
        f"""
        import weakref
        from bridge._targets.jax import ffi
        from bridge._targets.jax import ffi_call

        alive = weakref.WeakSet()

        def once(i):
            def double(x):
                return x * i
            alive.add(double)
            h = into_jax(double, name="h", keep=True)
            jax.block_until_ready(h(x) if {eager} else jax.jit(lambda x: h(x) + 1)(x))

        def memory():
            gc.collect()
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096 / 2**20

        for i in range(100):
            once(i)
        before = memory()
        for i in range(300):
            once(i)
        grown = memory() - before
        kept = ffi_call._by_name, ffi_call._by_op, ffi._kept_by_programs
        counts = len(alive), *map(len, kept)
        print(counts, grown)
        assert max(counts) == 0
        assert grown < 10
        """
    )


def test_the_other_transport():
    run(
        """
        from bridge._targets.jax import callback
        from bridge._targets.jax import transport
        assert transport.lower is callback.lower
        loss = lambda h: lambda x, w: (h(x, w) ** 2).sum()
        for transform in (jax.grad, jax.jit, jax.hessian, lambda h: jax.vmap(h, (0, None))):
            equal(transform(loss(f))(x, w), transform(loss(g))(x, w))
        h = into_jax(lambda x: x + 1 if type(x) is not torch.Tensor else x[99], name="h")
        for _ in range(2):
            try:
                jax.block_until_ready(h(x))
            except jax.errors.JaxRuntimeError as error:
                assert "IndexError: index 99 is out of bounds" in str(error)
            else:
                raise AssertionError
        """,
        GRADBRIDGE_JAX_TRANSPORT="callback",
    )
