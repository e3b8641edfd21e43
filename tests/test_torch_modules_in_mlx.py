"""Modules of torch in MLX: the kinds there are, with torch's names."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import bridge
from bridge import jax2mlx, to_mlx, to_torch, torch2jax, torch2mlx

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
optimizers = pytest.importorskip("mlx.optimizers")
torch = pytest.importorskip("torch")
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten  # noqa: E402

from tests.torch_layers import KINDS, Dropped, Mixed, Tied  # noqa: E402

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")


@pytest.fixture(params=KINDS)
def module(request):
    torch.manual_seed(0)
    return KINDS[request.param]()


def both(module):
    """An argument in MLX and in torch, of the dtype of the module."""
    dtype = next(module.parameters()).dtype
    x = mx.array(X)
    return (x.astype(mx.bfloat16) if dtype == torch.bfloat16 else x), torch.tensor(X).to(dtype)


def as_numpy(x):
    return np.array(x.astype(mx.float32) if x.dtype == mx.bfloat16 else x)


def rough(module):
    half = next(module.parameters()).dtype == torch.bfloat16
    return {"rtol": 3e-2, "atol": 3e-2} if half else {"rtol": 1e-3, "atol": 1e-5}


def test_names_gradients_and_values_are_those_of_torch(module):
    view, (x, native_x) = torch2mlx(module), both(module)
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    assert {name for name, _ in tree_flatten(view.trainable_parameters())} == names
    assert len(tree_flatten(view.unfreeze().trainable_parameters())) >= len(names)
    view = torch2mlx(module)
    value, gradients = nn.value_and_grad(view, lambda: (view(x) ** 2).sum())()
    native = copy.deepcopy(module)
    expected = (native(native_x) ** 2).sum()
    expected.backward()
    np.testing.assert_allclose(as_numpy(value), expected.float().detach(), **rough(module))
    gradients = dict(tree_flatten(gradients))
    for name, p in native.named_parameters():
        if p.requires_grad:
            found = as_numpy(gradients[name])
            np.testing.assert_allclose(found, p.grad.float(), **rough(module), err_msg=name)


def test_files_of_weights_are_those_of_torch(module, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    file = str(tmp_path / "weights.safetensors")
    view, tied = torch2mlx(module), isinstance(module, Tied)
    view.apply(lambda x: x * 2 if x.dtype in (mx.float32, mx.bfloat16) else x)
    view.save_weights(file)
    module.load_state_dict(safetensors.load_file(file), strict=not tied)
    for name, x in tree_flatten(view.parameters()):
        np.testing.assert_array_equal(as_numpy(x), module.state_dict()[name].float())
    again = torch2mlx(copy.deepcopy(module))
    safetensors.save_file({k: x.clone() for k, x in module.state_dict().items()}, file)
    again.load_weights(file, strict=not tied)
    for name, x in tree_flatten(view.parameters()):
        assert mx.array_equal(dict(tree_flatten(again.parameters()))[name], x)


def test_steps_and_the_module_of_now(module):
    view, (x, native_x) = torch2mlx(module), both(module)
    rule, step = optimizers.Adam(0.01), nn.value_and_grad(view, lambda: (view(x) ** 2).sum())
    for _ in range(2):
        rule.update(view, step()[1])
        mx.eval(view.parameters(), rule.state)
        if not isinstance(module, Mixed):  # MLX finds no lists under a name with an underscore
            rule.state = tree_unflatten(tree_flatten(rule.state))
    back = to_torch(view).eval()
    expected = view.eval()(x)
    np.testing.assert_allclose(back(native_x).float().detach(), as_numpy(expected), **rough(module))
    dtypes = {name: x.dtype for name, x in module.state_dict().items()}
    assert {name: x.dtype for name, x in back.state_dict().items()} == dtypes
    assert mx.array_equal(copy.deepcopy(view)(x), expected)


def test_numbered_groups_have_modes():
    torch.manual_seed(0)
    outer = Dropped(Dropped(torch.nn.Linear(3, 64)), torch.nn.Identity())

    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = outer

        def forward(self, x):
            return self.parts(x)

    holder, x = Holder(), mx.array(X)
    holder.parts.eval()
    view = torch2mlx(holder)
    assert view.training
    assert not view.parts.training
    assert not (view(x) == 0).any()
    view.parts[0].train()
    share = lambda: (view(x) == 0).mean().item()
    assert 0.3 < share() < 0.7
    view.parts.train()
    assert 0.6 < share() < 0.9
    nn.Sequential(view).eval()
    assert not view.parts[0].training
    assert share() == 0
    modes = [part.training for part in to_torch(view.train()).modules()]
    assert modes == [True] * len(modes)
    assert pickle.loads(pickle.dumps(view.parts.eval())).training is False


def test_buffers_that_are_not_saved_are_no_parameters():
    view = torch2mlx(Mixed())
    assert "mask" not in dict(tree_flatten(view.parameters()))
    mask = view["_mask"]
    view["_mask"] = mask * 0
    expected = to_torch(view)
    assert not expected.mask.any()
    np.testing.assert_allclose(view(mx.array(X)), expected(torch.tensor(X)).detach(), rtol=1e-4)


def test_a_view_in_a_tree_comes_back():
    view = torch2mlx(torch.nn.Linear(3, 2))
    tree = to_torch({"model": [view], "x": mx.ones(2)})
    assert isinstance(tree["model"][0], torch.nn.Linear)
    assert isinstance(tree["x"], torch.Tensor)
    outer = nn.Sequential(nn.Linear(3, 3), view)
    assert isinstance(to_torch(outer)["layers"][1], torch.nn.Linear)
    with pytest.raises(bridge.ArgumentError, match=r"module of torch, Linear, which bridge.to_tor"):
        to_mlx(view)
    for wrap in (torch2mlx, torch2jax):
        with pytest.raises(bridge.ArgumentError, match=r"got torch2mlx\(Linear\), which was made"):
            wrap(view)


READ = """
import pickle, sys
import mlx.core as mx
view = pickle.load(open(sys.argv[1], "rb"))
print(view(mx.ones((2, 3))).sum().item(), view.training)
"""


def test_another_process_reads_a_view(tmp_path):
    view = torch2mlx(KINDS["numbered"]()).eval()
    (tmp_path / "view").write_bytes(pickle.dumps(view))
    command = [sys.executable, "-c", READ, str(tmp_path / "view")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    np.testing.assert_allclose(float(output[0]), view(mx.ones((2, 3))).sum().item(), rtol=1e-5)
    assert output[1] == "False"


def test_names_that_cannot_both_be():
    jax = pytest.importorskip("jax")
    ones = jax.numpy.ones(2)
    params = {"a": {"b": ones}, "a.b.c": ones}
    with pytest.raises(bridge.ArgumentError, match=r"two arrays or groups.* call 'a\.b\.c'"):
        jax2mlx(bridge.Functional(lambda params, x: x, params))


def test_names_of_methods_of_mlx():
    jax = pytest.importorskip("jax")
    names = ("update", "training", "keys", "state", "items", "parameters", "train", "_no_grad_")
    params = {name: jax.numpy.ones(3) for name in names}
    view = jax2mlx(bridge.Functional(lambda params, x: sum(params.values()) * x, params))
    x = mx.array(X)
    view.eval().train().freeze().unfreeze()
    gradients = nn.value_and_grad(view, lambda: view(x).sum())()[1]
    assert {*gradients} == {*names}
    optimizers.SGD(1.0).update(view, gradients)
    expected = X * len(names) * (1 - X.sum(0))
    np.testing.assert_allclose(view(x), expected, rtol=1e-4, atol=1e-5)


def test_parts_that_were_replaced_are_named():
    view = torch2mlx(KINDS["numbered"]())
    view["1"] = nn.Identity()
    with pytest.raises(bridge.ArgumentError, match=r"no '1\.0' any more"):
        view(mx.array(X))


def test_two_calls_before_a_gradient_and_second_derivatives():
    view = torch2mlx(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())).eval()
    hessian = lambda x: mx.grad(lambda x: (mx.grad(lambda x: view(x).sum())(x) ** 2).sum())(x)
    native = to_torch(view)
    x = torch.tensor(X[0], requires_grad=True)
    (slope,) = torch.autograd.grad(native(x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad((slope**2).sum(), x)
    np.testing.assert_allclose(hessian(mx.array(X[0])), expected, rtol=1e-3, atol=1e-5)


class Hidden(torch.nn.Module):
    """A module with a numbered group whose name begins with `_`."""

    def __init__(self):
        super().__init__()
        self._layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))

    def forward(self, x):
        return self._layers(x)


@pytest.mark.parametrize("kind", ["a hidden group", "a numbered module in one of MLX"])
def test_the_state_of_an_optimizer_is_loaded_by_its_names(kind, tmp_path):
    layer = Hidden() if kind == "a hidden group" else Hidden()._layers
    model = nn.Sequential(nn.Linear(3, 3), torch2mlx(layer))
    loss = lambda model: (model(mx.array(X)) ** 2).mean()
    saved, rule = copy.deepcopy(model), optimizers.Adam(0.01)
    rule.update(saved, nn.value_and_grad(saved, loss)(saved)[1])
    mx.savez(tmp_path / "state.npz", **tree_flatten(rule.state, destination={}))

    loaded, again = copy.deepcopy(saved), optimizers.Adam(0.01)
    values = mx.load(str(tmp_path / "state.npz"))
    again.init(loaded.trainable_parameters())
    again.state = tree_map_with_path(lambda name, _: values[name], again.state)
    for each, optimizer in ((saved, rule), (loaded, again)):
        optimizer.update(each, nn.value_and_grad(each, loss)(each)[1])
    pairs = zip(tree_flatten(saved.parameters()), tree_flatten(loaded.parameters()), strict=True)
    assert all(mx.array_equal(x, y) for (_, x), (_, y) in pairs)
