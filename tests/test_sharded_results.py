"""Arrays of JAX that lie on several devices, or on another than the first, given to others."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.processes import ROOT, fresh_process

jax = pytest.importorskip("jax")

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
PLACES = ("sharded", "replicated", "third device")


def functions():
    """Functions of one argument whose results lie on several of four devices."""
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

    mesh = Mesh(np.array(jax.devices()), ("d",))
    where = (NamedSharding(mesh, P("d")), NamedSharding(mesh, P()), jax.devices()[2])
    weights = dict(zip(PLACES, (jax.device_put(X + 2, place) for place in where), strict=True))

    def mapped(fn, out_specs):
        return jax.shard_map(fn, mesh=mesh, in_specs=P("d"), out_specs=out_specs)

    constraint = jax.lax.with_sharding_constraint
    return weights, {
        "constraint": lambda x: constraint(2 * x * x, where[0]),
        "shard_map": mapped(lambda x: jnp.sin(x) * x, P("d")),
        "sum in shard_map": mapped(lambda x: jax.lax.psum(x * x, "d"), P()),
        "pmap": lambda x: jax.pmap(lambda y: jnp.sin(y) * y)(x.reshape(4, 2, 3)).reshape(8, 3),
        "device_put": lambda x: jax.device_put(jnp.sin(x), where[0]),
        "several results": lambda x: (constraint(2 * x * x, where[0]).sum(), x * x),
        **{f"{name} weights": lambda x, w=w: jnp.sin(x) * w for name, w in weights.items()},
    }


def crossed(target, residuals, jit):
    """How far values and gradients are from those of JAX, for each function."""
    import bridge

    distances = {}
    wrap = getattr(bridge, f"jax2{target}")
    for name, fn in functions()[1].items():
        outputs, pull = jax.vjp(fn, jax.numpy.asarray(X))
        leaves, structure = jax.tree.flatten(outputs)
        cotangents = [np.cos(np.arange(y.size, dtype="f4")).reshape(y.shape) for y in leaves]
        (gradient,) = pull(jax.tree.unflatten(structure, cotangents))
        true = [np.asarray(y) for y in (*leaves, gradient)]
        found = PULLED[target](wrap(fn, residuals=residuals, jit=jit), cotangents)
        shapes = [y.shape for y in found] == [y.shape for y in true]
        far = [float(abs(a - b).max()) for a, b in zip(found, true, strict=True)] if shapes else [9]
        distances[name] = max(far)
    # Where arrays go by default decides nothing.
    with jax.default_device(jax.devices()[2]):
        fn = lambda x: functions()[1]["constraint"](x).sum()
        x = slope(target, fn)
        distances["default device"] = float(abs(x - 4 * X).max())
    return distances


def slope(target, fn):
    """The gradient of a scalar function."""
    import bridge

    wrapped = getattr(bridge, f"jax2{target}")(fn)
    one = np.ones((), "f4")
    return PULLED[target](wrapped, [one])[-1]


def in_torch(fn, cotangents):
    import torch

    x = torch.tensor(X, requires_grad=True)
    outputs = fn(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.autograd.backward(outputs, [torch.tensor(c) for c in cotangents])
    return [y.numpy(force=True) for y in (*outputs, x.grad)]


def in_mlx(fn, cotangents):
    import mlx.core as mx

    def row(x):
        outputs = fn(x)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    outputs, gradients = mx.vjp(row, [mx.array(X)], [mx.array(c) for c in cotangents])
    return [np.array(y) for y in (*outputs, *gradients)]


PULLED = {"torch": in_torch, "mlx": in_mlx}


@pytest.fixture
def _four_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.usefixtures("_four_devices")
@pytest.mark.parametrize(
    ("target", "residuals", "jit"),
    [("torch", "save", True), ("torch", "recompute", False), ("mlx", "save", True)],
)
def test_results_are_gathered(target, residuals, jit):
    pytest.importorskip({"torch": "torch", "mlx": "mlx.core"}[target])
    distances = fresh_process(crossed, target, residuals, jit)
    assert max(distances.values()) < 1e-5, distances


def converted(target):
    """For each place and each `copy` whether the converted array is right, or the error."""
    import bridge

    found = {}
    for name, array in functions()[0].items():
        for copy in (None, True, False):
            try:
                y = getattr(bridge, f"to_{target}")(array, copy=copy)
                found[f"{name}, {copy}"] = bool((np.array(y) == X + 2).all())
                if target == "jax":
                    assert y.sharding == array.sharding
            except bridge.ArgumentError as error:
                found[f"{name}, {copy}"] = str(error)
    return found


@pytest.mark.usefixtures("_four_devices")
@pytest.mark.parametrize("target", ["torch", "jax"])
def test_arrays_are_converted_where_they_are_on_one_device(target):
    pytest.importorskip(target)
    found = fresh_process(converted, target)
    for name in PLACES[:2] if target == "torch" else ():
        for copy in (None, True, False):
            assert f"{name} over 4 devices" in found.pop(f"{name}, {copy}")
    assert set(found.values()) == {True}, found


def arguments():
    """Distances of a product with weights that are an argument, for each place."""
    import torch

    import bridge

    product = bridge.jax2torch(lambda x, w: x * w)
    found = {}
    for name, w in functions()[0].items():
        x = torch.tensor(X, requires_grad=True)
        y = product(x, w)
        y.sum().backward()
        found[name] = [float(abs(y.detach().numpy() - X * (X + 2)).max())]
        found[name] += [float(abs(x.grad.numpy() - (X + 2)).max())]
    return found


@pytest.mark.usefixtures("_four_devices")
def test_arguments_that_lie_on_several_devices():
    pytest.importorskip("torch")
    assert max(max(pair) for pair in fresh_process(arguments).values()) < 1e-6


def constants():
    """Distances of a product with constants, of an array that lies elsewhere, for each place."""
    import torch

    import bridge

    w = np.array([2.0, -3.0, 0.5], "f4")
    found = {}
    for lower in ("ffi", "xla"):
        product = bridge.torch2jax(lambda x, w: x * w, lower=lower)
        for name, x in functions()[0].items():
            for kind, constant in (("NumPy", w), ("torch", torch.tensor(w, dtype=torch.bfloat16))):
                call = lambda x, product=product, w=constant: product(x, w)
                calls = {
                    "value": (call(x), (X + 2) * w),
                    "jitted": (jax.jit(call)(x), (X + 2) * w),
                    "gradient": (jax.grad(lambda x, call=call: call(x).sum())(x), w),
                    "batch": (jax.vmap(call)(x), (X + 2) * w),
                }
                for what, (y, expected) in calls.items():
                    far = float(abs(np.asarray(y) - expected).max())
                    found[f"{lower}, {name}, {kind}, {what}"] = far
    return found


@pytest.mark.usefixtures("_four_devices")
def test_constants_go_where_arguments_lie():
    pytest.importorskip("torch")
    found = fresh_process(constants)
    assert max(found.values()) < 1e-6, found


ELSEWHERE = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import bridge
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
sharding = NamedSharding(jax.make_mesh((2,), ("i",)), P("i"))
x = jax.make_array_from_callback((4,), sharding, lambda at: np.arange(4.0, dtype="f4")[at])
assert bridge.to_jax(x, copy=True).shape == (4,)
try:
    bridge.to_torch(x)
except bridge.ArgumentError as error:
    print(error)
"""


def test_arrays_of_other_processes_are_refused():
    pytest.importorskip("torch")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    run = [sys.executable, "-W", "ignore", "-c", ELSEWHERE, place]
    both = [
        subprocess.Popen([*run, rank], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in ("0", "1")
    ]
    texts = [process.communicate(timeout=60)[0] for process in both]
    for process, said in zip(both, texts, strict=True):
        assert process.returncode == 0
        assert "float32[4], sharded over 2 devices, some of which belong to other" in said
        assert "`jax.experimental.multihost_utils.process_allgather(x, tiled=True)`" in said
