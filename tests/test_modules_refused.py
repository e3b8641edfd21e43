"""Modules of torch that cannot be used with the parameters of others: refused by name."""

import numpy as np
import pytest

from bridge import ArgumentError, NoRuleError, RangeError, to_torch, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

from tests.torch_modules import TiedBuffers, state  # noqa: E402

nn = torch.nn
X = np.random.default_rng(5).normal(size=(4, 3)).astype("float32")


class Past(nn.Module):
    """A module that reaches its own parameter past its attributes, in either pass."""

    def __init__(self, *, backward):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.weights, self.late = [self.layer.weight], backward

    def forward(self, x):
        if self.late:
            return Late.apply(self.layer(x), self.weights)
        return self.layer(x) @ self.weights[0]


class Late(torch.autograd.Function):
    @staticmethod
    def forward(x, weights):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weights = inputs[1]

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent @ ctx.weights[0], None


class Averaging(nn.Module):
    """A module that keeps an average in a parameter."""

    def __init__(self):
        super().__init__()
        self.layer, self.mean = nn.Linear(3, 3), nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x):
        self.mean.data.mul_(0.9).add_(x.detach().mean(0))
        return self.layer(x) + self.mean


class Resetting(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        self.scale = nn.Parameter(2 * self.scale.detach())
        return x * self.scale


class Stateful(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.zeros(3)

    def forward(self, x):
        self.hidden = 0.5 * self.hidden + x.mean(0)
        return x * self.hidden


class Accumulating(torch.autograd.Function):
    """A backward pass that leaves the gradients of a layer in `.grad`."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            ctx.layer(x).backward(cotangent)
        return x.grad, None


class Accumulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return Accumulating.apply(x, self.layer)


def hooked_after():
    module = nn.Linear(3, 3)
    module.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return module


REFUSED = {
    "past": (lambda: Past(backward=False), ArgumentError, "Past uses `layer.weight` past the attr"),
    "late": (lambda: Past(backward=True), ArgumentError, "Past uses `layer.weight` past the attr"),
    "in_place": (Averaging, ArgumentError, "Averaging changes its parameter `mean` in place"),
    "anew": (Resetting, ArgumentError, "Resetting replaces its parameter `scale`"),
    "state": (
        Stateful,
        ArgumentError,
        "Stateful reads its attribute `hidden`, a tensor, and replaces",
    ),
    "untied": (lambda: TiedBuffers(place=False), ArgumentError, "replaces buffer mean, but not"),
    "accumulated": (Accumulated, NoRuleError, r"a `.backward\(\)` in it adds to the `.grad`"),
    "hooked_after": (hooked_after, NoRuleError, "weight has a hook that changes its `.grad`"),
}


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_use_or_lose_others_is_refused(kind, capture):
    make, error, text = REFUSED[kind]
    module = make()
    there = torch2jax(module, capture=capture)
    before = state(module)
    loss = lambda params, x: there.apply(params, there.buffers, x)[0].sum()
    with pytest.raises(error, match=text):
        jax.grad(loss, argnums=(0, 1))(there.params, X)
    assert state(module) == before


def test_parameters_are_checked_by_name():
    there = torch2jax(nn.Linear(3, 3))
    with pytest.raises(
        ArgumentError, match=r"`params` of Linear lacks bias\. Pass all that are in"
    ):
        there.apply({"weight": there.params["weight"]}, {}, X)
    with pytest.raises(ArgumentError, match="`params` of Linear has an unknown scale"):
        there.apply({**there.params, "scale": 1.0}, {}, X)
    with pytest.raises(ArgumentError, match=r"`buffers` of Linear is an array.*net.apply\(net.par"):
        there.apply(there.params, X)
    with pytest.raises(ArgumentError, match="`params` of Linear is an array"):
        there.apply(X, {})
    with pytest.raises(ArgumentError, match=r"Call `net.apply\(net.params, net.buffers, \*args\)`"):
        there(X)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_modules_whose_parameters_cannot_be_replaced_are_refused():
    with pytest.raises(ArgumentError, match="LazyLinear is lazy: `weight` has no shape before"):
        torch2jax(nn.LazyLinear(3))
    traced = torch.jit.trace(nn.Linear(3, 3), torch.tensor(X))
    with pytest.raises(
        ArgumentError, match=r"is compiled by torch\.jit, which holds its parameters"
    ):
        torch2jax(traced)


class Replacing(nn.Module):
    """A module that replaces its buffer, an average, by one of another dtype."""

    def __init__(self, start):
        super().__init__()
        self.register_buffer("average", torch.tensor(start))

    def forward(self, x):
        self.average = 0.9 * self.average + 0.1 * x.double().mean()
        return x


@pytest.mark.parametrize("start", [0, True, 1.5])
@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_a_buffer_keeps_its_dtype(start, lower):
    net = torch2jax(Replacing(start), lower=lower)
    text = r"replaces its buffer average, which is \w+, by one of float\d+ while it is called"
    with pytest.raises(ArgumentError, match=text):
        net.apply(net.params, net.buffers, X)


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(2**30))

    def forward(self, x):
        self.count.mul_(2)
        return x


def test_a_counter_does_not_wrap():
    net = torch2jax(Doubling())
    with pytest.raises(RangeError, match="holds 2147483648, which does not fit into int32"):
        jax.block_until_ready(net.apply(net.params, net.buffers, X))


class Shared(nn.Module):
    """A module with a part of one tensor in another."""

    def __init__(self, kind):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))
        self.register_buffer("mean", torch.zeros(6))
        shared = {"buffer": self.mean[2:4], "parameter": self.weight.detach()[1:]}
        self.register_buffer("part", shared[kind])

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("kind", "names"), [("buffer", "mean and part"), ("parameter", "weight and part")]
)
def test_tensors_that_share_memory_are_refused(kind, names):
    with pytest.raises(ArgumentError, match=f"{names} of Shared share memory"):
        torch2jax(Shared(kind))


def test_parts_of_one_memory_that_do_not_overlap_are_taken():
    lstm = nn.LSTM(3, 4)
    flat = torch.cat([x.detach().flatten() for x in lstm.parameters()])
    start = 0
    for x in lstm.parameters():
        x.data = flat[start : start + x.numel()].view_as(x)
        start += x.numel()
    net = torch2jax(lstm)
    (output, _), _ = net.apply(net.params, net.buffers, X)
    np.testing.assert_allclose(output, lstm(torch.tensor(X))[0].detach(), rtol=1e-5, atol=1e-6)


def test_weights_of_double_precision_stay_so():
    module = nn.BatchNorm1d(3)
    net, x = torch2jax(module), X.astype("float64")
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jax.numpy.asarray(a, "float64"), (net.params, net.buffers))
        wide[1]["num_batches_tracked"] = jax.numpy.asarray(0)
        output, _ = net.apply(*wide, jax.numpy.asarray(x))
    assert output.dtype == "float64"
    np.testing.assert_allclose(output, module.double()(torch.tensor(x)).detach(), rtol=1e-12)


def old_weight_norm():
    return nn.utils.weight_norm(nn.Linear(3, 4))


def pruned():
    prune = pytest.importorskip("torch.nn.utils.prune")
    return prune.l1_unstructured(nn.Linear(3, 4), "weight", 0.5)


@pytest.mark.parametrize("make", [old_weight_norm, pruned])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_module_that_torch_cannot_copy_is_not_given_back(make):
    pytest.importorskip("flax.nnx")
    model = torch2jax(nn.Sequential(make(), nn.Tanh())).to_nnx()
    assert model(jax.numpy.asarray(X)).shape == (4, 4)
    with pytest.raises(ArgumentError) as raised:
        to_torch(model)
    for text in (
        *("Sequential cannot be given back", "attribute `0.weight`"),
        *("parametrizations.weight_norm", "prune.remove"),
    ):
        assert text in str(raised.value)
