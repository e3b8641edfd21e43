"""Programs that XLA makes of functions of torch: without calls, exported, on several devices."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch

from bridge import torch2jax
from tests.test_jax_target_processes import FOUR, run


def perceptron(x, w, v):
    return torch.tanh(x @ w) @ v


ARRAYS = jnp.ones((8, 16)), jnp.ones((16, 32)), jnp.ones((32, 4))


def test_a_program_holds_no_call():
    texts = []
    for lower in ("ffi", "xla"):
        f = torch2jax(perceptron, lower=lower)
        gradient = jax.grad(lambda *xs, f=f: f(*xs).sum(), (0, 1, 2))
        texts.append(jax.jit(gradient).lower(*ARRAYS).as_text())
    assert "gradbridge_call" in texts[0]
    assert "custom_call" not in texts[1]
    assert "stablehlo.dot_general" in texts[1]


def test_an_exported_program_runs_without_torch(tmp_path):
    pytest.importorskip("flatbuffers")
    file = tmp_path / "program"
    run(
        f"""
        import pathlib
        from jax import export
        from bridge import torch2jax
        solve = torch2jax(lambda a, b: torch.linalg.solve(a @ a.mT + torch.eye(2), b), lower="xla")
        gradient = jax.value_and_grad(lambda a, b: solve(a, b).sum(), (0, 1))
        a, b = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([0.5, 1.0])
        exported = export.export(jax.jit(gradient))(a, b)
        pathlib.Path({str(file)!r}).write_bytes(exported.serialize())
        """
    )
    run(
        f"""
        import pathlib, sys
        from jax import export
        exported = export.deserialize(bytearray(pathlib.Path({str(file)!r}).read_bytes()))
        a, b = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([0.5, 1.0])
        native = lambda a, b: jnp.linalg.solve(a @ a.T + jnp.eye(2), b).sum()
        equal(exported.call(a, b), jax.value_and_grad(native, (0, 1))(a, b))
        assert "torch" not in sys.modules and "bridge" not in sys.modules
        """,
        start=JAX_ALONE,
    )


JAX_ALONE = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)

def equal(mine, native):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    jax.tree.map(close, mine, native)
"""


def test_jit_partitions_a_function_over_four_devices():
    """No device sees the whole batch: the hidden layer is computed in parts of 2 rows of 8."""
    run(
        """
        from bridge import torch2jax
        mesh = jax.make_mesh((4,), ("i",), axis_types=(AUTO,))
        rows, whole = NamedSharding(mesh, P("i")), NamedSharding(mesh, P())
        native = lambda x, w, v: jnp.tanh(x @ w) @ v
        there = torch2jax(lambda x, w, v: torch.tanh(x @ w) @ v, lower="xla")
        x = jnp.linspace(-1, 1, 8 * 16).reshape(8, 16)
        w, v = jnp.linspace(-1, 1, 16 * 32).reshape(16, 32), jnp.linspace(-1, 1, 128).reshape(32, 4)
        args = jax.device_put(x, rows), jax.device_put(w, whole), jax.device_put(v, whole)

        program = jax.jit(there).lower(*args).compile()
        assert program.output_shardings.is_equivalent_to(rows, 2)
        text = program.as_text()
        assert "f64[2,32]" in text and "f64[8,32]" not in text and "all-gather" not in text
        equal(jax.jit(there)(*args), native(x, w, v))

        loss = lambda h: lambda x, w, v: (h(x, w, v) ** 2).sum()
        gradient = jax.jit(jax.grad(loss(there), (0, 1, 2)))
        text = gradient.lower(*args).compile().as_text()
        assert "f64[8,32]" not in text and "all-reduce" in text
        equal(gradient(*args), jax.grad(loss(native), (0, 1, 2))(x, w, v))

        columns = jax.device_put(w, NamedSharding(mesh, P(None, "i")))
        split = x, columns, jax.device_put(v, rows)
        text = jax.jit(there).lower(*split).compile().as_text()
        assert "f64[8,8]" in text and "f64[8,32]" not in text and "all-reduce" in text
        equal(jax.jit(there)(*split), native(x, w, v))
        """,
        **FOUR,
    )


@pytest.mark.parametrize("check", ["True", "False"])
def test_shard_map_and_explicit_sharding_on_four_devices(check):
    run(
        f"""
        from bridge import torch2jax
        mesh = jax.make_mesh((4,), ("i",), axis_types=(AUTO,))
        there = torch2jax(lambda x, w: torch.tanh(x @ A) * w, lower="xla")
        def loss(h):
            inside = lambda x, w: lax.psum((h(x, w) ** 2).sum(), "i")
            how = dict(in_specs=(P("i"), P()), out_specs=P(), check_vma={check})
            return jax.shard_map(inside, mesh=mesh, **how)
        for transform in (
            lambda h: h,
            lambda h: jax.jit(jax.value_and_grad(h, (0, 1))),
            lambda h: jax.jit(jax.hessian(h, 1)),
        ):
            equal(transform(loss(there))(x, w), transform(loss(g))(x, w))
        explicit = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
        with jax.set_mesh(explicit):
            equal(jax.jit(there)(jax.device_put(x, P("i")), w), g(x, w))
        """,
        **FOUR,
    )
