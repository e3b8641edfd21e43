"""Modules of other frameworks under the tools of torch: hooks, transformations, optimizers."""

import copy
import importlib
import re
import warnings

import numpy as np
import pytest

from bridge import ArgumentError, Functional, jax2torch
from tests.bridged_layers import (
    KINDS,
    X,
    arrays,
    batch,
    call_over_batch,
    close,
    make_functional,
    make_mlp,
)

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
functional_call, vmap = torch.func.functional_call, torch.func.vmap


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def layer(kind):
    return kind.make()


def dropping(params, x, *, rng, training):
    """A scale with dropout, whose mask shows in the output where `x` is not 0."""
    keep = jax.random.bernoulli(rng, 0.5, x.shape) if training else 1
    return params["w"] * x * keep


def make_dropout():
    return jax2torch(Functional(dropping, {"w": jnp.array([1.5, -0.5, 2.0])}))


def test_functional_call_puts_new_buffers_into_the_dict_that_was_passed(kind, layer):
    params, buffers = arrays(kind.make(1))
    expected, new = kind.reference(params, dict(buffers), batch(), True)
    before = {name: x.clone() for name, x in layer.state_dict().items()}
    close(functional_call(layer, (params, buffers), (batch(),)), expected)
    close(buffers, new)
    close(dict(layer.state_dict()), before, rtol=0, atol=0)


def test_gradients_of_functional_calls(kind, layer):
    params, buffers = arrays(layer)
    copies = {name: x.clone() for name, x in buffers.items()}

    def loss(params, buffers):
        return (functional_call(layer, (params, buffers), (batch(),)) ** 3).sum()

    found = torch.func.grad(loss)(params, copies)
    true = (kind.reference(params, buffers, batch(), True)[0] ** 3).sum()
    close(list(found.values()), list(torch.autograd.grad(true, [*params.values()])))


def test_ensembles(kind):
    layers = [kind.make(seed).eval() for seed in range(3)]
    params, buffers = torch.func.stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")
    found = vmap(lambda *state: functional_call(base, state, (batch(),)))(params, buffers)
    close(found, torch.stack([layer(batch()) for layer in layers]))
    found.square().sum().backward()
    for i, layer in enumerate(layers):
        layer(batch()).square().sum().backward()
        for name, parameter in layer.named_parameters():
            close(params[name].grad[i], parameter.grad)


def test_ensembles_in_training_have_statistics_of_their_own():
    layers = [make_functional(seed) for seed in range(3)]
    params, buffers = torch.func.stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")
    found = vmap(lambda *state: functional_call(base, state, (batch(),)))(params, buffers)
    close(found, torch.stack([layer(batch()) for layer in layers]))
    for name, buffer in buffers.items():
        close(buffer, torch.stack([dict(layer.named_buffers())[name] for layer in layers]))


def test_gradients_of_each_example(kind, layer):
    layer.eval()
    params, buffers = arrays(layer)
    params = {name: x.detach() for name, x in params.items()}

    def loss(params, x):
        return (functional_call(layer, (params, buffers), (x[None],)) ** 3).sum()

    found = vmap(torch.func.grad(loss), in_dims=(None, 0))(params, batch())
    for i, x in enumerate(batch()):
        close({k: g[i] for k, g in found.items()}, torch.func.grad(loss)(params, x))


def test_buffers_that_are_not_batched_are_refused_by_torch():
    with pytest.raises(RuntimeError, match="vmap: inplace arithmetic"):
        vmap(make_functional())(batch().reshape(2, 3, 3))


def test_random_numbers_follow_the_generator():
    layer = make_dropout()
    ones = torch.ones(40, 3)
    torch.manual_seed(3)
    first, second = layer(ones), layer(ones)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(layer(ones), first)
    with torch.random.fork_rng():
        layer(ones)
    assert torch.equal(layer(ones), second)
    key = torch.tensor([3, 4], dtype=torch.int32)
    state = torch.get_rng_state()
    assert torch.equal(layer(ones, rng=key), layer(ones, rng=key))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_call_that_draws_nothing_moves_no_generator(kind, layer):
    state = torch.get_rng_state()
    layer(batch())
    make_dropout().eval()(batch())
    assert torch.equal(torch.get_rng_state(), state)


def test_one_call_is_one_draw():
    layer = make_dropout()
    layer(batch())
    torch.manual_seed(0)
    layer(batch())
    state = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_of_examples_differ_under_vmap():
    layer = make_dropout()
    y = vmap(layer, randomness="different")(torch.ones(2, 40, 3))
    assert not torch.equal(y[0], y[1])
    y = vmap(layer, randomness="same")(torch.ones(2, 40, 3))
    assert torch.equal(y[0], y[1])
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(layer)(torch.ones(2, 40, 3))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_draw_the_same_numbers_again(use_reentrant):
    layer = make_dropout()
    x = torch.ones(40, 3, requires_grad=True)
    torch.manual_seed(5)
    y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=use_reentrant)
    y.sum().backward()
    close(x.grad, y.detach())
    assert (y == 0).any()


def test_checkpoints_of_layers_with_buffers(kind, layer):
    params, _ = arrays(layer)
    layer.eval()
    y = torch.utils.checkpoint.checkpoint(layer, batch(), use_reentrant=False)
    (y**3).sum().backward()
    expected = (kind.reference(params, dict(layer.named_buffers()), batch(), False)[0] ** 3).sum()
    expected.backward()
    close([x.grad for x in layer.parameters()], [x.grad for x in params.values()])


def test_hooks_run(layer):
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    layer.register_forward_hook(lambda _, __, output: 3 * output)
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    next(layer.parameters()).register_hook(lambda gradient: seen.append("parameter") or gradient)
    twin = copy.deepcopy(layer)
    twin._forward_hooks.clear()
    twin._forward_pre_hooks.clear()
    close(layer(batch()), 3 * twin(2 * batch()))
    layer(batch().requires_grad_()).sum().backward()
    assert {*seen} == {"backward", "parameter"}


OLD_NORMS = {
    "weight_norm": lambda group: torch.nn.utils.weight_norm(group, "w"),
    "spectral_norm": lambda group: torch.nn.utils.spectral_norm(group, "w"),
    "pruning": lambda group: importlib.import_module("torch.nn.utils.prune").l1_unstructured(
        group, "w", 0.5
    ),
    "forward hook": lambda group: group.register_forward_hook(lambda *_: None),
    "backward hook": lambda group: group.register_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("hook", OLD_NORMS)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_hooks_of_groups_would_never_run(hook):
    params = {"first": {"w": jnp.ones((3, 3))}, "last": jnp.ones(3)}
    layer = jax2torch(Functional(lambda p, x: x @ p["first"]["w"] * p["last"], params))
    # What prunes cleans up after an error, which raises another one.
    with pytest.raises((ArgumentError, KeyError)) as raised:
        OLD_NORMS[hook](layer.first)
    error = raised.value if hook != "pruning" else raised.value.__context__
    assert re.search(r"never called by itself.*parametrize", str(error))


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weights(norm):
    kind = KINDS["equinox"]
    layer, twin = kind.make(), kind.make()
    parametrize = getattr(torch.nn.utils.parametrizations, norm)
    group, copied = layer.get_submodule("layers.0"), twin.get_submodule("layers.0")
    layer(batch())
    torch.manual_seed(0)
    parametrize(group, "weight")
    torch.manual_seed(0)
    parametrize(copied, "weight")
    layer.eval()
    twin.eval()
    params = dict(twin.named_parameters())
    params |= {"layers.0.weight": copied.weight}
    expected = kind.reference(params, {}, batch(), False)[0]
    close(layer(batch()), expected)
    layer(batch()).square().sum().backward()
    expected.square().sum().backward()
    found = {name: x.grad for name, x in layer.named_parameters()}
    assert all("parametrizations" in name or x is not None for name, x in found.items())
    close(found, {name: x.grad for name, x in twin.named_parameters()})


OPTIMIZERS = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "Adam, fused": lambda params: torch.optim.Adam(params, lr=0.05, fused=True),
    "AdamW, foreach": lambda params: torch.optim.AdamW(params, lr=0.05, foreach=True),
    "LBFGS": lambda params: torch.optim.LBFGS(params, lr=0.05, max_iter=4),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_of_an_optimizer(kind, layer, name):
    layer.double().eval()
    params, buffers = arrays(layer)
    x = batch(torch.float64)

    def train(parameters, call):
        parameters = list(parameters)
        optimizer = OPTIMIZERS[name](parameters)

        def closure():
            optimizer.zero_grad(set_to_none=True)
            loss = ((call() - 1) ** 2).mean()
            loss.backward()
            if name != "LBFGS":
                torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            return loss

        for _ in range(3):
            optimizer.step(closure)

    train(layer.parameters(), lambda: layer(x))
    train(params.values(), lambda: kind.reference(params, buffers, x, False)[0])
    close(dict(layer.named_parameters()), params)


def test_scaled_gradients(kind, layer):
    layer.eval()
    scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    params, buffers = arrays(layer)
    scaler.scale(layer(batch()).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    loss = kind.reference(params, buffers, batch(), False)[0].square().sum()
    gradients = torch.autograd.grad(loss, [*params.values()])
    close(
        [*layer.parameters()],
        [x - 0.1 * g for x, g in zip(params.values(), gradients, strict=True)],
    )


def test_second_derivatives_and_forward_mode(kind, layer):
    layer.double().eval()
    params, buffers = arrays(layer)
    x = batch(torch.float64).requires_grad_()
    names = list(params)

    def call(x, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *params.values())
    torch.autograd.gradcheck(call, inputs, check_forward_ad=True, fast_mode=True)
    torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    direction = tuple(torch.ones_like(y) for y in inputs)
    reference = lambda x, *values: kind.reference(
        dict(zip(names, values, strict=True)), buffers, x, False
    )[0]
    found, expected = (
        torch.func.jvp(f, tuple(y.detach() for y in inputs), direction) for f in (call, reference)
    )
    close(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(kind, layer, dtype):
    dtype = getattr(torch, dtype)
    layer.to(dtype)
    params, buffers = arrays(layer)
    params = {name: x.detach().requires_grad_() for name, x in params.items()}
    y = layer(batch(dtype))
    expected, new = kind.reference(params, buffers, batch(dtype), True)
    assert y.dtype == dtype
    tolerances = {"float64": {"rtol": 1e-9, "atol": 1e-9}}
    rough = {"rtol": 0.1, "atol": 0.1}
    close(y, expected, **tolerances.get(str(dtype)[6:], rough))
    close(dict(layer.named_buffers()), new, **tolerances.get(str(dtype)[6:], rough))
    y.sum().backward()
    assert {x.grad.dtype for x in layer.parameters()} == {dtype}


def test_layers_without_values(kind, layer):
    values = layer.state_dict()
    shape = layer(batch()).shape
    layer.to("meta")
    y = layer(batch().to("meta"))
    assert (y.shape, y.device.type) == (shape, "meta")
    y.sum().backward()
    assert make_dropout().to("meta")(batch().to("meta")).device.type == "meta"
    layer.to_empty(device="cpu")
    layer.load_state_dict(values)
    params, buffers = arrays(layer)
    close(layer(batch()), kind.reference(params, buffers, batch(), True)[0])


def test_shapes_make_layers_on_meta():
    eqx = pytest.importorskip("equinox")
    layer = jax2torch(eqx.filter_eval_shape(make_mlp), method=call_over_batch)
    assert all(x.is_meta for x in layer.parameters())
    layer.to_empty(device="cpu").load_state_dict(KINDS["equinox"].make().state_dict())
    close(layer(batch()), KINDS["equinox"].make()(batch()))


def test_autocast_widens_to_the_widest_dtype():
    eqx = pytest.importorskip("equinox")
    convolution = eqx.nn.Conv1d(3, 4, 3, key=jax.random.key(0))
    layer = jax2torch(convolution, method=call_over_batch)
    model = torch.nn.Sequential(torch.nn.Conv1d(3, 3, 1), layer)
    x = torch.tensor(X).reshape(1, 3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inner = model[0](x)
        assert inner.dtype == torch.bfloat16
        y = layer(inner)
    assert y.dtype == torch.float32
    weight, bias = layer.weight, layer.bias[:, 0]
    close(y, torch.nn.functional.conv1d(inner.float(), weight, bias))
    y.sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(TypeError, match="requires arguments to have the same dtypes"):
        layer(inner.detach())
    with torch.autocast("cpu", torch.bfloat16):  # narrow parameters are widened, too
        y = layer.bfloat16()(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert layer.weight.grad.dtype == torch.bfloat16


def test_autocast_keeps_the_dtype_of_buffers():
    layer, twin = make_functional(), make_functional()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(batch(torch.bfloat16))
    assert y.dtype == torch.float32
    close(y, twin(batch(torch.bfloat16).float()))
    assert {x.dtype for x in layer.buffers()} == {torch.float32, torch.int32}


def test_containers_and_moves(kind, layer):
    model = torch.nn.ModuleDict({"a": layer, "b": torch.nn.ModuleList([layer, kind.make(1)])})
    names = {name for name, _ in model.named_parameters()}
    own = {name for name, _ in layer.named_parameters()}
    assert names == {f"a.{name}" for name in own} | {f"b.1.{name}" for name in own}
    model.share_memory()
    assert all(x.is_shared() for x in model.state_dict().values())
    replica = layer._replicate_for_data_parallel()
    for name, x in layer.named_parameters(recurse=False):
        setattr(replica, name, 2 * x)
    params, buffers = arrays(layer)
    params |= {name: 2 * x for name, x in layer.named_parameters(recurse=False)}
    close(replica.eval()(batch()), kind.reference(params, buffers, batch(), False)[0])


def test_averaged_models(kind, layer):
    average = torch.optim.swa_utils.AveragedModel(layer, use_buffers=True)
    average.update_parameters(layer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(3)
    average.update_parameters(layer)
    params, buffers = arrays(kind.make())
    params = {name: 2 * x for name, x in params.items()}
    close(average.eval()(batch()), kind.reference(params, buffers, batch(), False)[0])


def test_one_trace_for_modes_and_shapes():
    traces = []

    def call(params, x, *, training):
        traces.append(training)
        return params["w"] * x

    layer = jax2torch(Functional(call, {"w": jnp.ones(3)}))
    optimizer = torch.optim.Adam(layer.parameters())
    layer(batch()).sum().backward()
    count = len(traces)
    for _ in range(3):
        optimizer.zero_grad()
        layer(batch()).sum().backward()
        optimizer.step()
        layer.load_state_dict({"w": torch.tensor([1.0, 2.0, 3.0])})
        copy.deepcopy(layer)(batch()).sum().backward()
        with torch.no_grad():
            torch.nn.Sequential(layer)(batch())
    assert len(traces) == count
    layer.eval()(batch())
    assert len(traces) == 2 * count or traces.count(False)


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = make_functional()
        layer(batch()).sum().backward()
        copy.deepcopy(layer).eval()(batch())
    assert np.isfinite(layer.first.w.grad.numpy()).all()
