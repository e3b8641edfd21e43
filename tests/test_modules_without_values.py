"""Modules of torch on the meta device, whose arrays the caller has."""

import numpy as np
import pytest

from bridge import ArgumentError, NoValuesError, to_jax, to_torch, torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
nn = torch.nn

X = np.random.default_rng(3).normal(size=(5, 3)).astype("float32")


def network(device="cpu", dtype=None):
    torch.manual_seed(0)
    with torch.device(device):
        return nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.BatchNorm1d(4), nn.Tanh())


def arrays_of(module):
    values = {name: x.detach() for name, x in module.state_dict().items()}
    values["1.num_batches_tracked"] = values["1.num_batches_tracked"].int()
    arrays = to_jax(values, copy=True)
    buffers = {name: arrays.pop(name) for name, _ in module.named_buffers()}
    return arrays, buffers


@pytest.mark.parametrize("options", [{}, {"capture": "never"}, {"lower": "xla"}], ids=str)
def test_a_module_without_values_is_called_with_those_of_the_caller(options):
    native, net = network(), torch2jax(network("meta"), **options)
    params, buffers = arrays_of(native)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), net.params
    )
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(net.params))
    assert net.buffers["1.num_batches_tracked"].dtype == "int32"
    shapes, _ = jax.eval_shape(net.apply, net.params, net.buffers, X)
    assert shapes.shape == (5, 4)
    loss = lambda params: (net.apply(params, buffers, jax.numpy.asarray(X))[0] ** 2).sum()
    slopes = jax.jit(jax.grad(loss))(params)
    (native(torch.tensor(X)) ** 2).sum().backward()
    for name, p in native.named_parameters():
        np.testing.assert_allclose(slopes[name], p.grad, rtol=1e-4, atol=1e-5)


def test_a_dtype_that_would_be_narrowed_is_refused():
    with pytest.raises(ArgumentError, match=r"a meta tensor is float64\[4,3\]"):
        torch2jax(network("meta", torch.float64))


def test_mlx_has_no_arrays_without_values():
    pytest.importorskip("mlx.core")
    with pytest.raises(NoValuesError, match="Initialize the module first"):
        torch2mlx(network("meta"))


def test_specs_in_place_of_arrays_are_refused():
    net = torch2jax(network("meta"))
    with pytest.raises(ArgumentError, match=r"'0\.weight' of Sequential is a ShapeDtypeStruct"):
        net.apply(net.params, net.buffers, jax.numpy.asarray(X))


def test_a_module_of_flax_without_values_is_filled_in():
    nnx = pytest.importorskip("flax.nnx")
    native = network()
    model, filled = torch2jax(network("meta")).to_nnx(), torch2jax(native).to_nnx()
    with pytest.raises(ArgumentError, match="Pass an array in its place"):
        to_torch(model)
    nnx.update(model, nnx.state(filled))
    back = to_torch(model)
    for x, y in zip(back.state_dict().values(), native.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y)
