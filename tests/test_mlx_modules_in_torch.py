"""Modules of MLX in torch: the kinds there are, and what torch does with modules."""

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

import bridge
from bridge import mlx2jax, mlx2torch, to_mlx, torch2mlx

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
optimizers = pytest.importorskip("mlx.optimizers")
torch = pytest.importorskip("torch")
from mlx.utils import tree_flatten  # noqa: E402

from tests.mlx_layers import MODULES, Adapted, Containers, Shared  # noqa: E402

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


def made(name):
    mx.random.seed(0)
    return MODULES[name]()


def loss(output):
    parts = output if isinstance(output, tuple) else (output,)
    return sum(((y - 0.3) ** 2).mean() for y in parts)


def named(module):
    return {name: np.array(x) for name, x in tree_flatten(module.parameters())}


def of_all_names(module, gradients):
    """The gradients of shared modules, which MLX gives to one of the names, in parts."""
    first = {}
    for name, owner in module.named_modules():
        first.setdefault(id(owner), []).append(name)
    total = dict(gradients)
    for names in first.values():
        for leaf in ("weight", "bias"):
            keys = [f"{name}.{leaf}" for name in names if f"{name}.{leaf}" in gradients]
            total |= dict.fromkeys(keys, sum(gradients[key] for key in keys))
    return total


@pytest.mark.parametrize("name", [*MODULES, "normalized, compiled"])
def test_values_and_gradients_equal_native(name):
    name, _, compiled = name.partition(", ")
    layer, native = mlx2torch(made(name), compile=bool(compiled)), made(name)
    value = loss(layer(torch.tensor(X)))
    value.backward()
    expected, gradients = nn.value_and_grad(native, lambda: loss(native(mx.array(X))))()
    np.testing.assert_allclose(value.item(), expected, rtol=1e-4)
    gradients = {key: np.array(x) for key, x in tree_flatten(gradients)}
    gradients = of_all_names(native, gradients)
    for key, parameter in layer.named_parameters():
        np.testing.assert_allclose(parameter.grad, gradients[key], rtol=1e-3, atol=1e-5)
    trained = {key for key, _ in tree_flatten(native.trainable_parameters())}
    assert {key for key, _ in layer.named_parameters()} <= trained


@pytest.mark.parametrize("name", ["shared", "adapted", "quantized", "normalized", "encoder"])
def test_three_steps_equal_native(name):
    layer, native = mlx2torch(made(name)), made(name)
    ours = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    theirs = optimizers.SGD(0.1, momentum=0.9)
    step = nn.value_and_grad(native, lambda: loss(native(mx.array(X))))
    for _ in range(3):
        ours.zero_grad()
        loss(layer(torch.tensor(X))).backward()
        ours.step()
        theirs.update(native, step()[1])
        mx.eval(native.parameters(), theirs.state)
    expected = named(native)
    for key, x in layer.state_dict().items():
        np.testing.assert_allclose(x, expected[key], rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", MODULES)
def test_the_module_of_now_comes_back(name):
    layer = mlx2torch(made(name))
    loss(layer(torch.tensor(X))).backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    layer.eval()
    back = to_mlx(layer)
    expected = layer(torch.tensor(X))
    found = back(mx.array(X))
    found, expected = (x[0] if isinstance(x, tuple) else x for x in (found, expected))
    np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-5)
    assert type(back) is type(made(name))
    assert not back.training
    assert {*named(back)} == {*named(made(name))}
    before = named(back)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    assert all((named(back)[key] == x).all() for key, x in before.items())


def test_a_module_that_comes_back_is_frozen_by_itself():
    module = made("normalized")
    back = to_mlx(mlx2torch(module))
    back.freeze()
    assert tree_flatten(module.trainable_parameters())
    assert to_mlx(mlx2torch(back)).layers[0].weight.shape == (5, 3)


def test_a_shared_module_is_one_parameter_and_stays_shared():
    layer = mlx2torch(Shared())
    names = [f"{group}.{leaf}" for group in ("first", "layers.0") for leaf in ("weight", "bias")]
    assert [name for name, _ in layer.named_parameters()] == names
    back = to_mlx(layer)
    assert back.again is back.first
    assert back.layers[1] is back.first


def test_names_are_paths():
    layer = mlx2torch(Containers())
    assert {*layer.state_dict()} == {
        *("parts.in.weight", "parts.in.bias", "parts.rest.0.weight", "parts.rest.0.bias"),
        "parts.rest.1.scale",
    }
    layer.get_submodule("parts.in").requires_grad_(False)
    assert [p.requires_grad for p in layer.parameters()] == [False, False, True, True, True]


def test_frozen_arrays_are_buffers_of_their_dtype():
    layer = mlx2torch(made("quantized"))
    buffers = {name: x.dtype for name, x in layer.named_buffers() if "layers.2" in name}
    assert buffers["layers.2.weight"] == torch.uint32
    assert [name for name, _ in mlx2torch(Adapted()).named_parameters()] == ["lora_a", "lora_b"]


def saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "way", [copy.deepcopy, saved, lambda layer: pickle.loads(pickle.dumps(layer))]
)
@pytest.mark.parametrize("name", ["shared", "containers", "adapted", "encoder", "normalized"])
def test_copies(name, way):
    layer = mlx2torch(made(name)).eval()
    twin = way(layer)
    torch.testing.assert_close(twin(torch.tensor(X)), layer(torch.tensor(X)))
    with torch.no_grad():
        next(twin.parameters()).add_(1)
    assert not torch.equal(next(twin.parameters()), next(layer.parameters()))


READ = """
import sys, torch
layer = torch.load(sys.argv[1], weights_only=False)
x = torch.linspace(-1, 1, 18).reshape(6, 3)
print(layer(x).sum().item(), layer.training)
"""


def test_another_process_reads_a_layer(tmp_path):
    layer = mlx2torch(made("containers")).eval()
    torch.save(layer, tmp_path / "layer")
    command = [sys.executable, "-c", READ, str(tmp_path / "layer")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    x = torch.linspace(-1, 1, 18).reshape(6, 3)
    np.testing.assert_allclose(float(output[0]), layer(x).sum().item(), rtol=1e-5)
    assert output[1] == "False"


def test_a_compiled_function_without_a_path_cannot_be_pickled():
    with pytest.raises(bridge.ArgumentError, match="another process cannot import"):
        pickle.dumps(mlx2torch(made("compiled")))


def test_files_of_weights_are_loaded_strictly(tmp_path):
    layer, other = mlx2torch(made("normalized")), mlx2torch(MODULES["normalized"]())
    layer(torch.tensor(X))
    torch.save(layer.state_dict(), tmp_path / "weights")
    other.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    torch.testing.assert_close(other.state_dict(), layer.state_dict())


class Methods(nn.Linear):
    def encode(self, x, scale=2):
        return mx.tanh(self(x)) * scale


def test_methods():
    module = Methods(3, 2)
    x, native = torch.tensor(X), mx.tanh(module(mx.array(X)))
    layer = mlx2torch(module)
    close = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5)
    close(layer(x, method="encode").detach(), 2 * native)
    close(layer(x, scale=3, method="encode").detach(), 3 * native)
    close(mlx2torch(module, method="encode")(x).detach(), 2 * native)
    doubled = mlx2torch(module, method=lambda module, x: 2 * module.encode(x))
    close(doubled(x).detach(), 4 * native)
    layer(x, method="encode").sum().backward()
    close(layer.bias.grad, 2 * (1 - np.array(native) ** 2).sum(0))
    with pytest.raises(bridge.ArgumentError, match="Methods has no method 'decode'"):
        layer(x, method="decode")
    with pytest.raises(bridge.OptionError, match="method="):
        mlx2torch(mx.sin, method="encode")


def test_random_numbers_follow_the_generator_of_torch():
    layer, x = mlx2torch(nn.Dropout(0.5)), torch.ones(200, requires_grad=True)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())
    key = torch.tensor([3, 4])
    assert torch.equal(layer(x, rng=key), layer(x, rng=key))
    key, state = mx.array(mx.random.state[0]), torch.get_rng_state()
    layer.eval()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)
    layer.train()
    layer(x)
    assert mx.array_equal(mx.random.state[0], key)


def test_modes_of_shared_parts_are_theirs():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.inner = nn.Sequential(self.drop)

        def __call__(self, x):
            return self.inner(x)

    module = Nested()
    module.drop.eval()
    layer = mlx2torch(module)
    assert [layer.training, layer.inner.training, layer.drop.training] == [True, True, False]
    assert torch.equal(layer(torch.ones(50)), torch.ones(50))
    layer.drop.train()
    assert (layer(torch.ones(50)) == 0).any()
    assert not module.drop.training


CHANGING = {
    "a new array": lambda self, y: setattr(self, "seen", y),
    "a private array": lambda self, y: setattr(self, "_total", self._total + y.sum()),
    "an array in a new list": lambda self, y: setattr(self, "seen", [y]),
    "an array in a list": lambda self, y: self.notes.append(y),
    "a parameter": lambda self, y: setattr(self, "weight", self.weight * 0.9),
    "one that was None": lambda self, y: setattr(self, "_last", y),
    "a list that gets shorter": lambda self, y: self.parts.pop(),
    "a layer that is another": lambda self, y: self.parts.__setitem__(0, nn.Linear(3, 2)),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_state_that_is_no_buffer_is_refused_and_restored(kind):
    class Changing(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self._total, self.notes, self._last = mx.array(0.0), [], None
            self.parts = [nn.Linear(3, 2), nn.Linear(3, 2)]

        def __call__(self, x):
            y = super().__call__(x)
            CHANGING[kind](self, y)
            return y

    module = Changing()
    contents, attributes, weight = dict(module), dict(vars(module)), module.weight
    name, parts = "seen|_total|0|1|weight|_last", [*module.parts]
    layer = mlx2torch(module)
    with pytest.raises(bridge.ArgumentError, match=f"Changing changes.*'({name})'.* buffer"):
        layer(torch.tensor(X))
    assert module.weight is weight
    assert {**module} == contents
    assert module.notes == []
    assert [a is b for a, b in zip(module.parts, parts, strict=True)] == [True, True]
    assert vars(module) == attributes


def test_buffers_of_one_kind_change_in_jax():
    jax = pytest.importorskip("jax")
    net = mlx2jax(made("normalized"))
    step = jax.jit(lambda buffers: net.apply(net.params, buffers, X)[1])
    buffers = step(step(net.buffers))
    native = made("normalized")
    native(mx.array(X))
    native(mx.array(X))
    assert {*buffers} == {*net.buffers}
    for key, x in buffers.items():
        np.testing.assert_allclose(x, named(native)[key], rtol=1e-5)


def test_compiled_code_of_torch():
    layer, eager = mlx2torch(made("normalized")), mlx2torch(made("normalized"))
    step = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        loss(step(torch.tensor(X))).backward()
        loss(eager(torch.tensor(X))).backward()
    torch.testing.assert_close(layer.state_dict(), eager.state_dict())
    for ours, native in zip(layer.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, native.grad)


class Checkpointed(nn.Linear):
    """A layer that MLX runs again in the backward pass."""

    def __call__(self, x):
        return nn.utils.checkpoint(self, lambda x: mx.tanh(nn.Linear.__call__(self, x)))(x)


class Sloped(nn.Linear):
    """A loss times its derivative by the weight of the module itself."""

    def __call__(self, x):
        loss = lambda: (nn.Linear.__call__(self, x) ** 2).sum()
        value, gradients = nn.value_and_grad(self, loss)()
        return value * gradients["weight"].sum()


def test_transformations_in_a_module_by_its_own_parameters():
    x = torch.tensor(X)
    for kind in (Checkpointed, Sloped):
        layer = mlx2torch(kind(3, 2))
        layer(x).sum().backward()
        weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
        output = torch.nn.functional.linear(x, weight, bias)
        if kind is Checkpointed:
            output.tanh().sum().backward()
        else:
            value = (output**2).sum()
            (slope,) = torch.autograd.grad(value, weight, create_graph=True)
            (value * slope.sum()).backward()
        torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.bias.grad, bias.grad, rtol=1e-4, atol=1e-5)


def test_a_module_of_torch_in_one_of_mlx_in_torch():
    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    outer = nn.Sequential(nn.Linear(3, 3), torch2mlx(inner))
    layer, x = mlx2torch(outer), torch.tensor(X)
    native = torch.nn.Sequential(torch.nn.Linear(3, 3), copy.deepcopy(inner))
    native[0].load_state_dict(layer.get_submodule("layers.0").state_dict())
    for _ in range(2):
        loss(layer(x)).backward()
        loss(native(x)).backward()
    for ours, theirs in zip(layer.parameters(), native.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    statistics = layer.get_submodule("layers.1.1").state_dict()
    torch.testing.assert_close(statistics, native[1][1].state_dict())
    torch.testing.assert_close(layer.eval()(x), native.eval()(x))


def test_a_function_of_torch_of_two_arguments_in_one_of_mlx():
    linear = torch2mlx(torch.nn.functional.linear)
    x, w = (torch.tensor(value, requires_grad=True) for value in (X, X[:2] ** 2))
    (mlx2torch(lambda x, w: linear(mx.tanh(x), w))(x, w) ** 2).sum().backward()
    expected = torch.autograd.grad((torch.nn.functional.linear(x.tanh(), w) ** 2).sum(), (x, w))
    torch.testing.assert_close((x.grad, w.grad), expected)


def test_integers_are_no_parameters():
    jax = pytest.importorskip("jax")

    class Gathered(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.indices, self.parts = mx.array([2, 0, 1]), [nn.Linear(3, 3)]

        def __call__(self, x):
            return super().__call__(self.parts[0](x[:, self.indices]))

    module = Gathered()
    layer, net = mlx2torch(module), mlx2jax(module)
    assert [name for name, _ in layer.named_buffers()] == ["indices"]
    assert {*net.buffers} == {"indices"}
    slope = jax.grad(lambda params: net.apply(params, net.buffers, X)[0].sum())(net.params)
    np.testing.assert_allclose(slope["bias"], [6, 6])
