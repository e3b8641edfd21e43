"""Modules of other frameworks in MLX, which have the habits of `mlx.nn.Module`."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bridge
from bridge import _registry

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
optimizers = pytest.importorskip("mlx.optimizers")
from mlx.utils import tree_flatten, tree_unflatten  # noqa: E402

from tests.modules_of_sources import MODULES  # noqa: E402

SOURCES = [source for source, target in _registry.directions() if target == "mlx"]
X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(6, 2)).astype("float32")


@dataclasses.dataclass
class Case:
    """A module of a source, and its view in MLX."""

    source: Any
    wrap: Callable
    module: Any
    view: Any

    def back(self, view):
        return getattr(bridge, f"to_{self.source.name}")(view)


@pytest.fixture(params=SOURCES)
def case(request):
    source = MODULES[request.param]()
    wrap = getattr(bridge, f"{request.param}2mlx")
    module = source.normalized()
    return Case(source, wrap, module, wrap(module))


@pytest.fixture(params=SOURCES)
def dropping(request):
    source = MODULES[request.param]()
    wrap = getattr(bridge, f"{request.param}2mlx")
    module = source.dropping()
    return Case(source, wrap, module, wrap(module))


def arrays(tree):
    return {name: np.array(x) for name, x in tree_flatten(tree)}


def close(ours, native, rtol=1e-4, atol=1e-5):
    assert {*ours} == {*native}
    for name in native:
        np.testing.assert_allclose(ours[name], native[name], rtol, atol, err_msg=name)


def loss(view, x=X, y=Y):
    return ((view(mx.array(x)) - mx.array(y)) ** 2).mean()


def test_names_and_values_are_those_of_the_original(case):
    assert isinstance(case.view, nn.Module)
    params, buffers = case.source.arrays(case.module)
    close(arrays(case.view.parameters()), params | buffers)
    close(arrays(case.view.trainable_parameters()), params)


def test_values_gradients_and_statistics_equal_native(case):
    value, gradients = nn.value_and_grad(case.view, lambda: loss(case.view))()
    expected, native, after = case.source.step(case.module, X, Y)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    close(arrays(gradients), native)
    close({n: x for n, x in arrays(case.view.parameters()).items() if n in after}, after)
    case.view.eval()
    expected = case.source.evaluate(case.module, X)
    np.testing.assert_allclose(case.view(mx.array(X)), expected, rtol=1e-4, atol=1e-5)


def test_three_steps_of_an_optimizer_equal_native(case):
    step = nn.value_and_grad(case.view, lambda: loss(case.view))
    rule = optimizers.AdamW(0.05, eps=1e-3, weight_decay=0.1, bias_correction=True)
    for _ in range(3):
        rule.update(case.view, step()[1])
        mx.eval(case.view.parameters(), rule.state)
    close(arrays(case.view.parameters()), case.source.train(case.module, X, Y, 3), 1e-3, 1e-4)


def test_gradients_by_the_argument(case):
    case.view.eval()
    found = mx.grad(lambda x: (case.view(x) ** 2).sum())(mx.array(X))
    step = 1e-2 * np.cos(np.arange(X.size)).reshape(X.shape)
    upper, lower = (float((case.view(mx.array(x)) ** 2).sum()) for x in (X + step, X - step))
    np.testing.assert_allclose((np.array(found) * step).sum() * 2, upper - lower, rtol=2e-2)


def test_modes_are_those_of_the_view(case):
    other = case.wrap(case.module)
    before = arrays(case.view.parameters())
    case.view.eval()
    case.view(mx.array(X))
    other(mx.array(X))
    close(arrays(case.view.parameters()), before)
    assert any((arrays(other.parameters())[name] != x).any() for name, x in before.items())
    assert case.source.is_training(case.module)
    case.source.set_evaluation(case.module)
    assert other.training
    assert not case.wrap(case.module).training


def test_a_part_has_a_mode_of_its_own(case):
    before = arrays(case.view.parameters())
    case.view.norm.eval()
    case.view(mx.array(X))
    close(arrays(case.view.parameters()), before)
    assert not case.wrap(case.back(case.view)).norm.training
    case.view.train()
    assert case.view.norm.training


def test_the_original_is_left_alone(case):
    before = case.source.arrays(case.module)
    rule = optimizers.SGD(0.1)
    rule.update(case.view, nn.value_and_grad(case.view, lambda: loss(case.view))()[1])
    mx.eval(case.view.parameters())
    for ours, native in zip(case.source.arrays(case.module), before, strict=True):
        close(ours, native)


def test_frozen_arrays_are_not_trained_and_buffers_never(case):
    params, _ = case.source.arrays(case.module)
    case.view.freeze()
    assert not arrays(case.view.trainable_parameters())
    case.view.first.unfreeze()
    assert {*arrays(case.view.trainable_parameters())} == {n for n in params if "first" in n}
    outer = nn.Sequential(case.view)
    outer.unfreeze()
    assert {*arrays(case.view.trainable_parameters())} == {*params}


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_files_of_weights(case, kind, tmp_path):
    file = str(tmp_path / f"weights.{kind}")
    case.view(mx.array(X))
    expected = arrays(case.view.parameters())
    case.view.save_weights(file)
    other = case.wrap(case.module)
    other.load_weights(file)
    close(arrays(other.parameters()), expected, 0, 0)
    outer = nn.Sequential(nn.Linear(3, 3), case.wrap(case.module))
    outer.load_weights([(f"layers.1.{n}", x) for n, x in mx.load(file).items()], strict=False)
    close(arrays(outer.layers[1].parameters()), expected, 0, 0)
    with pytest.raises(ValueError, match="Missing"):
        other.load_weights([*mx.load(file).items()][:-1])


def test_the_state_of_an_optimizer_is_loaded(case):
    step = nn.value_and_grad(case.view, lambda: loss(case.view))
    rule, again = optimizers.Adam(0.05), optimizers.Adam(0.05)
    rule.update(case.view, step()[1])
    again.state = tree_unflatten(tree_flatten(rule.state))
    twin = copy.deepcopy(case.view)
    gradients = step()[1]
    rule.update(case.view, gradients)
    again.update(twin, gradients)
    close(arrays(twin.trainable_parameters()), arrays(case.view.trainable_parameters()), 0, 0)


def test_values_of_now_come_back_copied(case):
    loss(case.view)
    case.view.update({"first": {n: 2 * x for n, x in case.view.first.items()}})
    back = case.back([case.view])[0]
    assert type(back) is type(case.module)
    native = case.source.arrays(back)
    close(arrays(case.view.parameters()), native[0] | native[1])
    case.view.eval()
    expected = case.source.evaluate(back, X)
    np.testing.assert_allclose(case.view(mx.array(X)), expected, rtol=1e-4, atol=1e-5)
    case.view.update({"first": {n: 2 * x for n, x in case.view.first.items()}})
    close(case.source.arrays(back)[0], native[0], 0, 0)


def test_copies_are_independent(case):
    twin = copy.deepcopy(case.view)
    case.view(mx.array(X))
    case.view.update({"first": {n: 2 * x for n, x in case.view.first.items()}})
    case.view.freeze()
    case.view.eval()
    params, buffers = case.source.arrays(case.module)
    close(arrays(twin.parameters()), params | buffers)
    assert twin.training
    assert arrays(twin.trainable_parameters())
    twin.unfreeze()
    close(arrays(twin.trainable_parameters()), params)


def test_within_a_model_of_mlx(case):
    mx.random.seed(2)
    outer = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), case.view, nn.Linear(2, 2))
    rule, step = optimizers.Adam(0.05), nn.value_and_grad(outer, lambda: loss(outer))
    losses = []
    for _ in range(30):
        value, gradients = step()
        rule.update(outer, gradients)
        mx.eval(outer.parameters(), rule.state)
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2
    outer.eval()
    assert not case.view.norm.training


def test_methods_by_name(case):
    expected = case.source.encode(case.module, X)
    found = case.view(mx.array(X), method="encode")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    other = case.wrap(case.module, method="encode")
    np.testing.assert_allclose(other(mx.array(X)), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(bridge.ArgumentError, match="has no method 'decode'"):
        case.view(mx.array(X), method="decode")


def test_batches(case):
    mapped, batch = mx.vmap(case.view), np.stack([X, X**2])
    with pytest.raises(bridge.NoValuesError, match=r"norm.*in training.*`\.eval\(\)`"):
        mapped(mx.array(batch))
    case.view.eval()
    expected = [case.source.evaluate(case.module, x) for x in batch]
    np.testing.assert_allclose(mapped(mx.array(batch)), expected, rtol=1e-4, atol=1e-5)


def test_compiled_code_is_refused_by_name(case):
    case.view.eval()
    with pytest.raises(bridge.NoValuesError, match=r"mx\.compile"):
        mx.eval(mx.compile(case.view)(mx.array(X)))


def test_the_repr_names_the_wrapper(case):
    assert repr(case.view) == f"{case.source.name}2mlx({type(case.module).__name__})"


def test_random_numbers_follow_the_seed(dropping):
    view, x = dropping.view, mx.ones((40, 3))
    mx.random.seed(3)
    first, second = view(x), view(x)
    mx.random.seed(3)
    assert mx.array_equal(view(x), first)
    assert not mx.array_equal(first, second)
    key = mx.random.key(5)
    assert mx.array_equal(view(x, rng=key), view(x, rng=key))


def test_a_call_that_draws_nothing_moves_no_key(dropping, case):
    before = mx.array(mx.random.state[0])
    case.view(mx.array(X))
    dropping.view(mx.array(X), rng=mx.random.key(0))
    dropping.view.eval()
    dropping.view(mx.array(X))
    assert mx.array_equal(mx.random.state[0], before)


def test_forward_and_backward_draw_the_same(dropping):
    view, x, outputs = dropping.view, mx.ones((40, 3)), []

    def total(x):
        outputs.append(view(x))
        return outputs[0].sum()

    gradient = mx.grad(total)(x)
    mask = np.array(outputs[0]) != 0
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_allclose(gradient, 2 * mask)


def test_a_checkpoint_needs_a_key(dropping):
    view, x, outputs = dropping.view, mx.ones((40, 3)), []
    rerun = mx.checkpoint(view)
    with pytest.raises(bridge.ArgumentError, match=r"mx\.checkpoint.*`rng=`"):
        mx.grad(lambda x: rerun(x).sum())(x)
    rerun = mx.checkpoint(lambda x, key: view(x, rng=key))

    def total(x):
        outputs.append(rerun(x, mx.random.key(1)))
        return outputs[0].sum()

    np.testing.assert_allclose(mx.grad(total)(x), 2 * (np.array(outputs[0]) != 0))
