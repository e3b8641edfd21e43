"""Parameters and buffers of modules of JAX whose dtype gives way to that of other arrays."""

import pickle

import pytest

from bridge import Functional, jax2mlx, jax2torch, to_jax

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy


def scale_and_shift(params, x):
    return x * params["scale"] + params["shift"]


def of_functional():
    params = {"scale": jnp.asarray(3.0), "shift": jnp.full((3,), 2.0)}
    return Functional(scale_and_shift, params), lambda x: scale_and_shift(params, x)


def of_partial():
    module = jax.tree_util.Partial(
        scale_and_shift, {"scale": jnp.asarray(3.0), "shift": jnp.full((3,), 2.0)}
    )
    return module, module


def of_equinox():
    equinox = pytest.importorskip("equinox")

    class Scale(equinox.Module):
        scale: jax.Array
        shift: jax.Array

        def __call__(self, x):
            return x * self.scale + self.shift

    module = Scale(jnp.asarray(3.0), jnp.full((3,), 2.0))
    return module, module


def of_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Scale(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.asarray(3.0))
            self.shift = nnx.Variable(2.0)

        def __call__(self, x):
            return x * self.scale + self.shift

    return Scale(), Scale()


def of_linen():
    linen = pytest.importorskip("flax.linen")

    class Scale(linen.Module):
        @linen.compact
        def __call__(self, x):
            shift = self.variable("constants", "shift", lambda: jnp.full((3,), 2.0))
            return x * self.param("scale", lambda _: jnp.asarray(3.0)) + shift.value

    variables = Scale().init(jax.random.key(0), jnp.ones(3))
    return Scale().bind(variables), Scale().bind(variables)


MODULES = {fn.__name__: fn for fn in (of_functional, of_partial, of_equinox, of_nnx, of_linen)}
each_kind = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
each_mode = pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])


@each_kind
@each_mode
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_results_have_the_native_dtype(make, mode, dtype):
    module, native = make()
    layer = jax2torch(module).train(mode)
    x = torch.tensor([1.5, -2.0, 0.25], dtype=getattr(torch, dtype), requires_grad=True)
    expected = native(jnp.asarray([1.5, -2.0, 0.25], dtype))
    assert expected.dtype == dtype
    y = layer(x)
    assert str(y.dtype) == f"torch.{dtype}"
    assert y.tolist() == expected.tolist()
    y.sum().backward()
    assert x.grad.tolist() == [3.0] * 3
    scale = next(p for name, p in layer.named_parameters() if name.endswith(("scale", "0.scale")))
    assert scale.dtype == torch.float32
    assert scale.grad.item() == -0.25


@each_kind
def test_a_module_of_mlx_likewise(make):
    mx = pytest.importorskip("mlx.core")
    y = jax2mlx(make()[0])(mx.array([1.5, -2.0, 0.25], mx.bfloat16))
    assert (y.dtype, y.tolist()) == (mx.bfloat16, [6.5, -4.0, 2.75])


@each_kind
def test_copies_and_what_is_given_back_stay_so(make):
    layer = jax2torch(make()[0])
    back = to_jax(layer)
    arrays = back.params if isinstance(back, Functional) else jax.tree.leaves(_arrays(back))
    assert all(x.weak_type for x in jax.tree.leaves(arrays))


def _arrays(module):
    nnx = pytest.importorskip("flax.nnx") if "flax" in str(type(module).__mro__) else None
    if nnx and isinstance(module, nnx.Module):
        return nnx.state(module)
    return getattr(module, "variables", module)


def test_a_pickled_layer_stays_so():
    layer = jax2torch(Functional(scale_and_shift, {"scale": jnp.asarray(3.0), "shift": 1.0 * X}))
    twin = pickle.loads(pickle.dumps(layer))
    assert twin(torch.ones(3, dtype=torch.float16)).dtype == torch.float16


X = jnp.full((3,), 2.0)


def test_a_double_layer_computes_in_double_precision():
    layer = jax2torch(of_partial()[0]).double()
    y = layer(torch.tensor([1.5, -2.0, 0.25], dtype=torch.float64))
    assert (y.dtype, y.tolist()) == (torch.float64, [6.5, -4.0, 2.75])
    # As of a JAX module whose weakly typed arrays have 64 bits.
    assert layer(torch.ones(3)).dtype == torch.float32


def test_specs_without_values_stay_so():
    spec = jax.ShapeDtypeStruct((), "float32", weak_type=True)
    layer = jax2torch(Functional(lambda p, x: x * p["scale"], {"scale": spec}))
    layer.to_empty(device="cpu").load_state_dict({"scale": torch.tensor(3.0)})
    assert layer(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_buffer_that_changes_stays_so():
    def count(params, buffers, x):
        return x * params * buffers, buffers + 1.5

    layer = jax2torch(Functional(count, jnp.asarray(2.0), jnp.asarray(1.0)))
    x = torch.ones(3, dtype=torch.bfloat16)
    assert [layer(x)[0].item() for _ in range(3)] == [2.0, 5.0, 8.0]
    assert layer(x).dtype == torch.bfloat16
    assert dict(layer.named_buffers())["buffer"].dtype == torch.float32
    assert [layer.eval()(x)[0].item() for _ in range(2)] == [14.0, 17.0]
