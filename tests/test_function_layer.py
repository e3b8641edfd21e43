"""`bridge.nn.FunctionLayer`: functions of tensors as layers of torch."""

import copy
import io
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge import ArgumentError, OptionError, numpy2torch  # noqa: E402
from bridge.nn import FunctionLayer  # noqa: E402
from bridge.rules import ParameterShift  # noqa: E402

calls = []


@numpy2torch(gradient=ParameterShift(), vectorized=True)
def circuit(x, w):
    calls.append(len(x))
    return np.stack([np.cos(x[:, 0] + w[:, 0]) * np.sin(w[:, 1]), np.sin(x[:, 1] * 1 + w[:, 1])], 1)


def native(x, w):
    return torch.stack(
        [torch.cos(x[..., 0] + w[0]) * torch.sin(w[1]), torch.sin(x[..., 1] + w[1])], -1
    )


def plain(x, w):
    return torch.tanh(x @ w)


@pytest.fixture
def x():
    return torch.tensor([[0.3, -0.7], [1.1, 0.2], [-0.4, 0.9]], requires_grad=True)


@pytest.fixture
def layer():
    return FunctionLayer(circuit, {"w": torch.tensor([0.4, -1.2])})


@pytest.mark.parametrize("batch", [(), (3,), (1, 3), (3, 2, 2), (0,)])
def test_axes_in_front_are_a_batch(layer, batch):
    x = torch.randn(*batch, 2, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    assert y.shape == (*batch, 2)
    torch.testing.assert_close(y, native(x, layer.w))


def test_gradients_of_inputs_and_weights(layer, x):
    layer(x).square().sum().backward()
    expected = torch.autograd.grad(native(x, layer.w).square().sum(), (x, layer.w))
    torch.testing.assert_close(x.grad, expected[0])
    torch.testing.assert_close(layer.w.grad, expected[1])


def test_a_batch_is_one_call_each_way(layer, x):
    calls.clear()
    layer(x.detach()).sum().backward()
    assert calls == [3, 3 * 2 * 2]


def test_another_function_is_mapped_by_torch(x):
    layer = FunctionLayer(plain, {"w": torch.tensor([0.4, -1.2])})
    torch.testing.assert_close(layer(x), torch.tanh(x @ layer.w))


def test_examples_have_noise_of_their_own():
    noisy = numpy2torch(lambda x, w, *, rng: x.sum() + w + rng.normal())
    layer = FunctionLayer(noisy, {"w": ()})
    y = layer(torch.zeros(4, 2))
    assert len({*y.tolist()}) == 4
    torch.manual_seed(3)
    first = layer(torch.zeros(4, 2))
    torch.manual_seed(3)
    assert torch.equal(layer(torch.zeros(4, 2)), first)


def test_several_inputs_of_different_axes():
    layer = FunctionLayer(lambda a, b, w: a @ b * w, {"w": ()}, in_ndim=(1, 2))
    a, b = torch.randn(5, 1, 3), torch.randn(4, 3, 2)
    torch.testing.assert_close(layer(a, b), (a[..., None, :] @ b)[..., 0, :] * layer.w)


def test_results_that_are_trees_stay_trees(x):
    layer = FunctionLayer(lambda x, w: {"sum": x.sum() * w, "pair": (x, x * w)}, {"w": ()})
    results = layer(x)
    assert results["sum"].shape == (3,)
    assert [y.shape for y in results["pair"]] == [(3, 2), (3, 2)]


def test_results_have_the_dtype_of_the_input():
    double = numpy2torch(lambda x, w: x.astype(np.float64) * w)
    layer = FunctionLayer(double, {"w": ()})
    assert double(torch.ones(2), torch.ones(())).dtype == torch.float64
    assert layer(torch.ones(3, 2)).dtype == torch.float32
    assert layer.double()(torch.ones(3, 2, dtype=torch.float64)).dtype == torch.float64


def test_weights_are_named_parameters(layer):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), layer)
    assert [*model.state_dict()] == ["0.weight", "0.bias", "1.w"]
    assert [name for name, _ in layer.named_parameters()] == ["w"]


def test_state_is_saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = FunctionLayer(circuit, {"w": 2})
    other.load_state_dict(torch.load(file))
    assert torch.equal(other.w, layer.w)


def test_copies_and_pickles_compute_the_same(layer, x):
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.w is not layer.w
        assert torch.equal(other(x), layer(x))


def test_weights_start_between_0_and_2_pi():
    w = FunctionLayer(plain, {"w": 1000}).w
    assert 0 <= w.min() < 0.1
    assert 2 * math.pi - 0.1 < w.max() <= 2 * math.pi


def test_initializers_for_all_and_by_name():
    fn = lambda x, a, b: x * a + b
    ones = FunctionLayer(fn, {"a": (), "b": 2}, init=torch.nn.init.ones_)
    assert ones.a == 1
    assert ones.b.tolist() == [1, 1]
    mixed = FunctionLayer(
        fn, {"a": (), "b": 2}, init={"a": torch.nn.init.zeros_, "b": torch.tensor([3.0, 4.0])}
    )
    assert mixed.a == 0
    assert mixed.b.tolist() == [3, 4]
    with torch.no_grad():
        mixed.b += 1
    mixed.reset_parameters()
    assert mixed.b.tolist() == [3, 4]


def test_dtype_and_device_of_weights():
    layer = FunctionLayer(plain, {"w": 2}, dtype=torch.float64, device="meta")
    assert (layer.w.dtype, layer.w.device.type) == (torch.float64, "meta")


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: FunctionLayer(plain, {"v": 2}), ArgumentError, r"names \['v'\].*\['x', 'w'\]"),
        (
            lambda: FunctionLayer(lambda x, *, a, b: x, {"a": 2}),
            ArgumentError,
            r"lacks \['b'\].*\['x', 'a', 'b'\]",
        ),
        (lambda: FunctionLayer(plain, {"w": 2}, init={}), OptionError, r"lacks \['w'\]"),
        (
            lambda: FunctionLayer(plain, {"w": 2}, init={"w": torch.zeros(3)}),
            OptionError,
            r"\(3,\) for w, whose shape is \(2,\)",
        ),
        (
            lambda: FunctionLayer(plain, {"w": 2}, init={"v": torch.zeros(2)}),
            OptionError,
            r"names \['v'\]",
        ),
        (lambda: FunctionLayer(plain, {"w": 2})(torch.tensor(1.0)), ArgumentError, "1 axes"),
        (
            lambda: FunctionLayer(plain, {"w": 2}, in_ndim=(1, 1))(torch.ones(2)),
            ArgumentError,
            "1 inputs",
        ),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_parameter_without_a_value_is_an_error():
    layer = FunctionLayer(lambda x, y, w: x + y * w, {"w": ()})
    with pytest.raises(TypeError, match="'y'"):
        layer(torch.ones(2))


def test_repr_shows_function_and_shapes(layer):
    assert repr(layer).startswith("FunctionLayer(<numpy2torch circuit (")
    assert repr(layer).endswith(", w=(2,))")


def test_it_compiles_as_one_graph(layer, x):
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), native(x, layer.w))
    compiled(x).sum().backward()
    expected = torch.autograd.grad(native(x, layer.w).sum(), (x, layer.w))
    torch.testing.assert_close(layer.w.grad, expected[1])


def test_gradients_per_example(layer, x):
    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    parameters = {"w": layer.w.detach()}
    per_example = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.detach())
    native_loss = lambda w, x: native(x, w).square().sum()
    expected = torch.func.vmap(torch.func.grad(native_loss), in_dims=(None, 0))(
        layer.w.detach(), x.detach()
    )
    torch.testing.assert_close(per_example["w"], expected)


def test_a_step_of_an_optimizer_decreases_the_loss(layer, x):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    before = layer(x).square().sum()
    before.backward()
    optimizer.step()
    assert layer(x).square().sum() < before


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed")
def test_gradients_are_reduced_over_processes(layer, x):
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(layer)
        model(x).square().sum().backward()
        (expected,) = torch.autograd.grad(native(x, layer.w).square().sum(), layer.w)
        torch.testing.assert_close(layer.w.grad, expected)
    finally:
        torch.distributed.destroy_process_group()
