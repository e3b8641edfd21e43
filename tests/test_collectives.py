"""What a program for several devices sends between them, for functions of torch in JAX."""

import re

import numpy as np
import pytest

from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

COLLECTIVES = r"= \S+ (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)"


def programs():
    """For each function and program its collectives, and the sharding of its result."""
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

    from bridge import torch2jax

    mesh = Mesh(np.array(jax.devices()), ("d",))
    random = np.random.default_rng(0)
    x = jax.device_put(random.normal(size=(8, 4)), NamedSharding(mesh, P("d")))
    w = jax.device_put(random.normal(size=(4, 3)), NamedSharding(mesh, P()))
    layer = lambda x, w: torch.tanh(x @ w)
    functions = {
        "native": lambda x, w: jnp.tanh(x @ w),
        "xla": torch2jax(layer, lower="xla"),
        "ffi": torch2jax(layer),
    }
    slopes = lambda f, argnum: jax.grad(lambda x, w: (f(x, w) ** 2).sum(), argnum)
    by_shard = lambda f: jax.shard_map(f, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    result = {}
    for name, f in functions.items():
        for way, called in {"jit": f, "shard_map": by_shard(f)}.items():
            variants = {"value": called, "for x": slopes(called, 0), "for w": slopes(called, 1)}
            for what, function in variants.items():
                compiled = jax.jit(function).lower(x, w).compile()
                sent = sorted(re.findall(COLLECTIVES, compiled.as_text()))
                spec = compiled.output_shardings.spec
                result[f"{name}, {way}, {what}"] = [sent, [*spec]]
    return result


@pytest.fixture(scope="module")
def sent():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
        patch.setenv("JAX_PLATFORMS", "cpu")
        return fresh_process(programs)


def test_code_of_xla_sends_what_native_code_sends(sent):
    """One sum over the devices, in the gradient of what is replicated."""
    for way in ("jit", "shard_map"):
        assert sent[f"native, {way}, value"] == sent[f"xla, {way}, value"] == [[], ["d"]]
        assert sent[f"native, {way}, for x"] == sent[f"xla, {way}, for x"] == [[], ["d"]]
        assert sent[f"native, {way}, for w"] == sent[f"xla, {way}, for w"] == [["all-reduce"], []]


def test_calls_gather_under_jit_and_stay_in_their_shard_under_shard_map(sent):
    for what in ("value", "for x", "for w"):
        assert sent[f"ffi, jit, {what}"] == [["all-gather"], []]
        assert sent[f"ffi, shard_map, {what}"] == sent[f"native, shard_map, {what}"]
