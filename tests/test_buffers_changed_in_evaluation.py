"""Buffers that a module changes in evaluation, such as caches and counters, in every direction."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
mx = pytest.importorskip("mlx.core")
mnn = pytest.importorskip("mlx.nn")
nnx = pytest.importorskip("flax.nnx")
eqx = pytest.importorskip("equinox")

import bridge  # noqa: E402
from bridge import Functional, jax2mlx, jax2torch, mlx2jax, mlx2torch, torch2jax, torch2mlx  # noqa: E402

X = np.array([1.0, 2.0], "float32")
CALLS = [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]  # the sum of all arguments so far


class Sum(torch.nn.Module):
    """Adds up its arguments, in a buffer that it changes in place or replaces."""

    def __init__(self, *, in_place=True):
        super().__init__()
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x):
        if self.in_place:
            self.seen.data.add_(x)
        else:
            self.seen = self.seen + x
        return self.seen * self.scale


class SumInMlx(mnn.Module):
    def __init__(self):
        super().__init__()
        self.seen = mx.zeros(2)
        self.freeze(keys=["seen"])

    def __call__(self, x):
        self.seen = self.seen + x
        return self.seen


class SumInNnx(nnx.Module):
    def __init__(self, variable):
        self.seen = variable(jnp.zeros(2))
        self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        self.seen.set_value(self.seen.get_value() + x)
        return self.seen.get_value()


class Kept(nnx.Variable):
    """A kind of variable of one's own."""


def add(params, buffers, x):
    return buffers["seen"] + x, {**buffers, "seen": buffers["seen"] + x}


def functional():
    return Functional(add, {"unused": jnp.ones(1)}, {"seen": jnp.zeros(2), "other": jnp.ones(2)})


def three_calls(module, array):
    module.eval()
    return [np.asarray(module(array(X)), "float32").tolist() for _ in range(3)]


def read(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.array(x)


TORCH = pytest.mark.parametrize("capture", ["auto", "never"])
IN_PLACE = pytest.mark.parametrize("in_place", [True, False], ids=["in place", "replaced"])


@TORCH
@IN_PLACE
def test_of_torch_as_a_module_of_nnx(in_place, capture):
    net = Sum(in_place=in_place)
    view = torch2jax(net, capture=capture).to_nnx()
    assert three_calls(view, jnp.asarray) == CALLS
    assert bridge.to_torch(view).seen.tolist() == CALLS[-1]
    assert net.seen.tolist() == [0, 0]


@TORCH
@IN_PLACE
def test_of_torch_as_a_module_of_equinox(in_place, capture):
    net = torch2jax(Sum(in_place=in_place).eval(), capture=capture)
    model, state = eqx.nn.make_with_state(lambda: net.to_equinox(changing=["seen"]))()
    results = []
    for _ in range(3):
        y, state = eqx.filter_jit(model)(jnp.asarray(X), state)
        results.append(y.tolist())
    assert results == CALLS


@TORCH
@IN_PLACE
def test_of_torch_as_a_module_of_mlx(in_place, capture):
    view = torch2mlx(Sum(in_place=in_place), capture=capture)
    assert three_calls(view, mx.array) == CALLS


@TORCH
def test_statistics_that_an_operator_writes_without_saying_so(capture):
    """The schema of torch's batch norm names no operand that it writes to."""

    class Normalize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("var", torch.ones(2))

        def forward(self, x):
            return torch.nn.functional.batch_norm(x, self.mean, self.var, training=True)

    x = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 1.0]], "float32")
    native = Normalize().eval()
    net = torch2jax(Normalize().eval(), capture=capture)
    buffers = net.buffers
    for _ in range(2):
        native(torch.tensor(x))
        _, buffers = net.apply(net.params, buffers, jnp.asarray(x))
    np.testing.assert_allclose(buffers["mean"], native.mean, rtol=1e-6)
    np.testing.assert_allclose(buffers["var"], native.var, rtol=1e-6)


VARIABLES = pytest.mark.parametrize(
    "variable", [nnx.BatchStat, nnx.Cache, nnx.Variable, Kept], ids=lambda v: v.__name__
)


@VARIABLES
def test_of_nnx_as_a_module_of_torch(variable):
    layer = jax2torch(SumInNnx(variable))
    with torch.no_grad():
        assert three_calls(layer, torch.tensor) == CALLS
    assert bridge.to_jax(layer).seen.get_value().tolist() == CALLS[-1]


@VARIABLES
def test_of_nnx_as_a_module_of_mlx(variable):
    assert three_calls(jax2mlx(SumInNnx(variable)), mx.array) == CALLS


def test_of_mlx_in_torch_and_in_nnx():
    assert three_calls(mlx2torch(SumInMlx()), torch.tensor) == CALLS
    assert three_calls(mlx2jax(SumInMlx()).to_nnx(), jnp.asarray) == CALLS


def test_functions_with_weights():
    assert three_calls(jax2torch(functional()), torch.tensor) == CALLS
    assert three_calls(jax2mlx(functional()), mx.array) == CALLS
    assert three_calls(functional().to_nnx(), jnp.asarray) == CALLS


def test_state_of_haiku():
    hk = pytest.importorskip("haiku")

    def run(x):
        seen = hk.get_state("seen", (2,), init=jnp.zeros) + x
        hk.set_state("seen", seen)
        return seen

    transformed = hk.without_apply_rng(hk.transform_with_state(run))
    params, state = transformed.init(jax.random.key(0), jnp.asarray(X))
    state = jax.tree.map(jnp.zeros_like, state)
    layer = jax2torch(Functional(transformed.apply, params, state))
    assert three_calls(layer, torch.tensor) == CALLS


def test_gradients_are_those_of_the_buffers_before_the_call():
    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("last", torch.tensor([3.0, -2.0]))

        def forward(self, x):
            y = x * self.last
            self.last = x.detach().clone()
            return y

    view = torch2jax(Product().eval()).to_nnx()
    view.eval()
    gradient = nnx.grad(lambda model, x: model(x).sum(), argnums=1)
    assert gradient(view, jnp.asarray(X)).tolist() == [3.0, -2.0]
    assert gradient(view, jnp.asarray(X)).tolist() == X.tolist()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("grad", [True, False])
def test_in_compiled_code_of_torch(grad, backend):
    layer = jax2torch(functional()).eval()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.tensor(X, requires_grad=grad)
    for expected in CALLS:
        y = compiled(x)
        assert y.tolist() == expected
        if grad:
            (slope,) = torch.autograd.grad((y * torch.tensor([2.0, 3.0])).sum(), x)
            assert slope.tolist() == [2.0, 3.0]
    assert layer.seen.tolist() == CALLS[-1]


def test_what_a_call_does_not_change_is_not_written():
    """So that batches of a model in evaluation need no batch of its buffers."""
    layer = jax2torch(functional()).eval()
    versions = layer.seen._version, layer.other._version
    layer(torch.tensor(X))
    assert (layer.seen._version, layer.other._version) == (versions[0] + 1, versions[1])

    net = torch.nn.BatchNorm1d(2).eval()
    x = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.0]], "float32")
    expected = net(torch.tensor(x)).detach().numpy()
    view = torch2jax(net).to_nnx()
    out = jax.vmap(lambda x: view(x[None])[0])(jnp.asarray(x))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    in_mlx = torch2mlx(net)
    out = mx.vmap(lambda x: in_mlx(x[None])[0])(mx.array(x))
    np.testing.assert_allclose(np.array(out), expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["WeightNorm", "SpectralNorm"])
def test_norms_of_flax_that_write_their_parameter_are_refused_in_evaluation_too(norm):
    kind, dense = getattr(nnx, norm), nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    layer = jax2torch(kind(dense, rngs=nnx.Rngs(1)))
    for mode in (True, False):
        with pytest.raises(bridge.ArgumentError, match="changes its parameter"):
            layer.train(mode)(torch.tensor(X)[None])
