"""Functions of JAX that compute on several devices, `jax.shard_map` above all, in torch and MLX."""

import numpy as np
import pytest

from tests.processes import fresh_process

jax = pytest.importorskip("jax")

X = np.random.default_rng(3).normal(size=(4, 3)).astype("f4")
W = np.random.default_rng(4).normal(size=(3, 2)).astype("f4")
V = np.cos(np.arange(12, dtype="f4")).reshape(4, 3)
EXPLICIT = "shardings in types"


def functions():
    """Functions of `(4, 3)` and `(3, 2)` that compute on two devices."""
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

    mesh = Mesh(np.array(jax.devices()), ("d",))

    def mapped(fn, in_specs, out_specs, **options):
        options = {"mesh": mesh, "in_specs": in_specs, "out_specs": out_specs, **options}
        return jax.shard_map(fn, **options)

    layer = lambda x, w: jnp.tanh(x @ w) ** 2
    rows, columns = ((P("d"), P()), P("d")), ((P(), P(None, "d")), P(None, "d"))
    summed = lambda x, w: jax.lax.psum(layer(x, w).sum(0), "d")
    step = mapped(lambda x, w: jnp.tanh(x @ w) @ w.T, *rows)
    whole = lambda x, w: layer(jax.lax.all_gather(x, "d", tiled=True), w)
    explicit = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    reshard = lambda x, *spec: jax.reshard(x, NamedSharding(explicit, P(*spec)))
    return explicit, {
        "rows": mapped(layer, *rows),
        "rows, unchecked": mapped(layer, *rows, check_vma=False),
        "columns": mapped(layer, *columns),
        "sum": mapped(summed, rows[0], P()),
        "sum, unchecked": mapped(summed, rows[0], P(), check_vma=False),
        "gathered": mapped(whole, (P("d"), P(None, "d")), P(None, "d")),
        "in a loop": lambda x, w: jax.lax.scan(lambda c, _: (step(c, w), None), x, length=2)[0],
        "in jit": jax.jit(lambda x, w: mapped(layer, *rows)(jnp.sin(x), w)),
        "pmap": lambda x, w: jax.pmap(layer, in_axes=(0, None))(x.reshape(2, 2, 3), w),
        EXPLICIT: lambda x, w: layer(reshard(x, "d"), reshard(w)),
    }


def derivatives(f, framework):
    """Values and derivatives of `f` in the words of a framework, each by name."""
    array, grad, jvp, vmap, stack = WORDS[framework]()
    x, w, v = map(array, (X, W, V))
    scalar = lambda x, w: (f(x, w) ** 2).sum()
    both = lambda x: stack([x, 2 * x])
    return {
        "value": lambda: f(x, w),
        "gradient": lambda: grad(scalar)(x, w),
        "of the second": lambda: grad(lambda w: scalar(x, w))(w),
        "second order": lambda: grad(lambda x: (grad(scalar)(x, w) * v).sum())(x),
        "forward mode": lambda: jvp(lambda x: f(x, w), x, v),
        "batch": lambda: vmap(f, (0, None))(both(x), w),
        "gradients of a batch": lambda: vmap(grad(scalar), (0, None))(both(x), w),
    }


def jax_words():
    import jax.numpy as jnp

    return jnp.asarray, jax.grad, lambda f, x, v: jax.jvp(f, (x,), (v,))[1], jax.vmap, jnp.stack


def torch_words():
    import torch
    from torch.func import grad, jvp, vmap

    return torch.tensor, grad, lambda f, x, v: jvp(f, (x,), (v,))[1], vmap, torch.stack


def mlx_words():
    import mlx.core as mx

    return mx.array, mx.grad, lambda f, x, v: mx.jvp(f, [x], [v])[1][0], mx.vmap, mx.stack


WORDS = {"jax": jax_words, "torch": torch_words, "mlx": mlx_words}


ALWAYS = ("value", "gradient")
THOROUGH = "gathered"  # the function of which all derivatives are compared


def distances(target, names, options):
    """How far values and derivatives are from those of JAX, for each function."""
    import contextlib

    import bridge

    explicit, by_name = functions()
    result = {}
    for name in names:
        # Its rules need to know of the mesh, in JAX itself too.
        with jax.set_mesh(explicit) if name == EXPLICIT else contextlib.nullcontext():
            wrapped = getattr(bridge, f"jax2{target}")(by_name[name], **options)
            native = derivatives(by_name[name], "jax")
            for what, compute in derivatives(wrapped, target).items():
                if name != THOROUGH and what not in ALWAYS:
                    continue
                y, expected = np.array(compute().tolist()), np.asarray(jax.jit(native[what])())
                far = abs(y - expected).max() if y.shape == expected.shape else np.inf
                result[f"{name}: {what}"] = float(far / max(1, abs(expected).max()))
    return result


@pytest.mark.parametrize(
    ("target", "names", "options"),
    [
        ("torch", None, {"residuals": "save"}),
        ("torch", ["sum", "columns"], {"residuals": "recompute"}),
        ("torch", ["rows", EXPLICIT], {"jit": False}),
        ("mlx", ["gathered", "sum", "pmap"], {"residuals": "save"}),
    ],
    ids=["saved", "recomputed", "eager", "mlx"],
)
def test_derivatives_through_several_devices(monkeypatch, target, names, options):
    pytest.importorskip({"torch": "torch", "mlx": "mlx.core"}[target])
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    far = fresh_process(distances, target, names or [*NAMES], options)
    assert max(far.values()) < 1e-5, {what: d for what, d in far.items() if not d < 1e-5}


NAMES = (
    *("rows", "rows, unchecked", "columns", "sum", "sum, unchecked", "gathered", "in a loop"),
    *("in jit", "pmap", EXPLICIT),
)
