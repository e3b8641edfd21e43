"""Modules of other frameworks as copies, pickles and states, in this process and in others."""

import copy
import io
import pickle

import pytest

import bridge
from bridge import Functional, jax2torch, to_jax
from tests.bridged_layers import KINDS, arrays, batch, close, make_functional
from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(params=KINDS)
def name(request):
    return request.param


@pytest.fixture
def kind(name):
    return KINDS[name]


@pytest.fixture
def layer(kind):
    """A layer that has been trained for a step, with a group in another mode."""
    return trained(kind.make())


def trained(layer):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(batch()).square().mean().backward()
    optimizer.step()
    return layer


def save_and_load(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": save_and_load,
}


@pytest.mark.parametrize("way", WAYS)
def test_copies_have_arrays_of_their_own(kind, layer, way):
    layer.eval()
    frozen = next(layer.parameters()).requires_grad_(False)
    other = WAYS[way](layer)
    close(dict(other.state_dict()), dict(layer.state_dict()), rtol=0, atol=0)
    assert not next(other.parameters()).requires_grad
    assert not other.training
    assert repr(other).startswith(repr(layer).partition(",")[0])
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    trained(other.train())
    with torch.no_grad():
        next(other.parameters()).add_(1)
    close(dict(layer.state_dict()), before, rtol=0, atol=0)
    params, buffers = arrays(other)
    close(other.eval()(batch()), kind.reference(params, buffers, batch(), False)[0])
    assert not frozen.requires_grad


def test_a_copy_shares_the_program():
    traces = []

    def call(params, x):
        traces.append(x)
        return params["w"] * x

    layer = jax2torch(Functional(call, {"w": jnp.ones(3)}))
    layer(batch()).sum().backward()
    count = len(traces)
    copy.deepcopy(layer)(batch()).sum().backward()
    assert len(traces) == count


def test_tied_copies_stay_tied():
    layer = make_functional()
    model = torch.nn.ModuleList([layer, layer])
    for way in WAYS.values():
        other = way(model)
        assert other[0] is other[1]


def load_layer(path, training):
    """What a module that another process has saved computes, and its state afterwards."""
    layer = torch.load(path, weights_only=False).train(training)
    y = layer(batch())
    return y.tolist(), [x.tolist() for x in layer.state_dict().values()]


@pytest.mark.parametrize("training", [True, False])
def test_other_processes_load_modules(layer, training, tmp_path):
    path = str(tmp_path / "layer.pt")
    torch.save(layer, path)
    y, state = fresh_process(load_layer, path, training)
    close(torch.tensor(y), layer.train(training)(batch()).detach())
    close(
        [torch.tensor(x) for x in state],
        [x.float() if x.is_floating_point() else x.long() for x in layer.state_dict().values()],
    )


def test_states_load_strictly_and_as_weights_only(kind, layer, tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"model": layer.state_dict(), "step": 1}, path)
    other = kind.make(1)
    state = torch.load(path, weights_only=True)
    assert (
        str(other.load_state_dict(state["model"], strict=True)) == "<All keys matched successfully>"
    )
    close(other.eval()(batch()), layer.eval()(batch()), rtol=0, atol=0)
    missing = dict(state["model"])
    missing.pop(next(iter(missing)))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(missing)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**state["model"], "more": torch.ones(1)})


def test_states_are_assigned(kind, layer):
    other = kind.make(1).to("meta")
    other.load_state_dict(layer.state_dict(), assign=True)
    close(other.eval()(batch()), layer.eval()(batch()), rtol=0, atol=0)


def test_training_is_resumed(tmp_path):
    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(batch()).square().mean().backward()
        optimizer.step()

    def make():
        layer = make_functional()
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.05)

    whole, resumed = make(), make()
    for _ in range(2):
        step(*whole)
        step(*resumed)
    torch.save([x.state_dict() for x in resumed], tmp_path / "both.pt")
    resumed = make()
    for x, state in zip(resumed, torch.load(tmp_path / "both.pt", weights_only=True), strict=True):
        x.load_state_dict(state)
    step(*whole)
    step(*resumed)
    close(dict(resumed[0].state_dict()), dict(whole[0].state_dict()), rtol=0, atol=0)


def test_safetensors(kind, layer, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = str(tmp_path / "layer.safetensors")
    safetensors.save_file(layer.state_dict(), path)
    other = kind.make(1)
    other.load_state_dict(safetensors.load_file(path))
    close(other.eval()(batch()), layer.eval()(batch()), rtol=0, atol=0)
    safetensors.save_model(layer, path)
    other = kind.make(1)
    assert safetensors.load_model(other, path) == (set(), [])
    close(other.eval()(batch()), layer.eval()(batch()), rtol=0, atol=0)


def test_a_module_of_now_comes_back(kind, layer):
    layer.eval()
    there = layer(batch()).detach()
    back = getattr(bridge, f"to_{kind.source}")(layer)
    trained(layer.train())
    trained(layer)
    again = getattr(bridge, f"{kind.source}2torch")(back) if kind is not KINDS["equinox"] else None
    if again is not None:
        close(again.eval()(batch()).detach(), there)
    else:
        close(torch.tensor(jax.vmap(back)(jnp.asarray(batch().numpy())).tolist()), there)


def test_a_module_inside_of_a_tree_comes_back():
    layer = KINDS["pytree"].make()
    back = to_jax({"x": torch.ones(2), "layers": [layer]})
    x = jnp.asarray(batch().numpy())
    close(torch.tensor(back["layers"][0](x).tolist()), layer(batch()).detach())
