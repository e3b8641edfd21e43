"""Modules of MLX and the layers made of them: neither changes the other, and nothing gets lost."""

import copy
import threading

import pytest

import bridge
from bridge import mlx2jax, mlx2torch, to_mlx

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
torch = pytest.importorskip("torch")

X = torch.tensor([[1.0, 3.0]])


class Scaled(nn.Module):
    """A layer with an array that is no parameter, and Python values."""

    def __init__(self):
        super().__init__()
        self.w, self._scale, self.shift = mx.array([1.0, 2.0]), mx.array(2.0), 0.5
        self.norm, self.signs = nn.RMSNorm(2), [1, -1]
        self.nested = {"power": 2, "layer": nn.Linear(2, 2)}

    def __call__(self, x):
        y = self.norm(x * self.w) * self._scale + self.shift
        return self.nested["layer"](y * mx.array(self.signs)) ** self.nested["power"]


EDITS = {
    "an attribute": lambda m: setattr(m, "shift", 7.0),
    "a part's attribute": lambda m: setattr(m.norm, "eps", 3.0),
    "a private array": lambda m: setattr(m, "_scale", mx.array(5.0)),
    "a private array in place": lambda m: m._scale.__iadd__(3.0),
    "a parameter in place": lambda m: m.w.__imul__(3.0),
    "a list": lambda m: m.signs.reverse(),
    "a dict": lambda m: m.nested.update(power=3),
    "a part": lambda m: setattr(m, "norm", nn.Identity()),
    "a lost part": lambda m: m.nested.clear(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_layers_do_not_follow_edits_of_the_original(edit):
    module = Scaled()
    layer = mlx2torch(module)
    twin, before = copy.deepcopy(layer), layer(X)
    EDITS[edit](module)
    assert torch.equal(layer(X), before)
    assert torch.equal(twin(X), before)
    assert torch.equal(mlx2torch(to_mlx(layer))(X), before)


def test_a_module_that_comes_back_is_its_own():
    layer = mlx2torch(Scaled())
    before = layer(X)
    restored = to_mlx(layer)
    restored._scale += 1
    restored.norm.eps = 3.0
    assert torch.equal(layer(X), before)


def test_shared_arrays_stay_shared_in_the_copy():
    module = Scaled()
    module._also = module._scale
    restored = to_mlx(mlx2torch(module))
    assert restored._also is restored._scale


class Noting(nn.Module):
    """A layer that notes something in its call."""

    def __init__(self, note):
        super().__init__()
        self.w, self.n, self.first, self.log, self.cached = mx.ones(2), 0, True, [], None
        self.inner, self.note = nn.Linear(2, 2), (note,)

    def __call__(self, x):
        self.note[0](self, x)
        return x * self.w


LOST = {
    "a counter": (lambda self, x: setattr(self, "n", self.n + 1), "'n' from 0 to 1"),
    "a flag": (lambda self, x: setattr(self, "first", False), "'first' from True to False"),
    "a list": (lambda self, x: self.log.append("call"), "'0' from None to 'call'"),
    "a tuple": (lambda self, x: setattr(self, "log", (*self.log, 1)), r"'log' from \[\] to \(1,\)"),
    "a new number": (lambda self, x: setattr(self, "m", 3), "'m' from None to 3"),
    "a part's": (lambda self, x: setattr(self.inner, "n", 1), "'n' from None to 1"),
}


@pytest.mark.parametrize("kind", LOST)
@pytest.mark.parametrize("training", [True, False])
def test_python_values_that_a_call_changes_are_refused_by_name(kind, training):
    note, text = LOST[kind]
    module = Noting(note)
    layer = mlx2torch(module).train(training)
    for each in (layer, copy.deepcopy(layer)):
        with pytest.raises(bridge.ArgumentError, match=rf"Noting changes {text}.* a buffer"):
            each(X)
    for each in (module, to_mlx(layer)):
        assert (each.n, each.first, each.log) == (0, True, [])
        assert not hasattr(each, "m")
        assert not hasattr(each.inner, "n")


CACHES = {
    "a function": lambda self, x: setattr(self, "cached", mx.compile(lambda x: x)),
    "the same number": lambda self, x: setattr(self, "n", int("0")),
    "an equal list": lambda self, x: setattr(self, "log", []),
    "a mode": lambda self, x: self.inner.eval(),
    "an object": lambda self, x: setattr(self, "cached", object()),
}


@pytest.mark.parametrize("kind", CACHES)
def test_caches_are_no_changes(kind):
    module = Noting(CACHES[kind])
    layer = mlx2torch(module)
    for _ in range(2):
        assert layer(X).tolist() == X.tolist()
    assert module.cached is None
    assert to_mlx(layer).cached is None


class Cached(nn.Module):
    """A layer that sums up what it gets, by a new array or in place."""

    def __init__(self, *, in_place):
        super().__init__()
        self.w, self.cache, self.in_place = mx.array([1.0, 2.0]), mx.zeros((1, 2)), in_place
        self.freeze(keys=["cache"])

    def __call__(self, x):
        if self.in_place:
            self.cache += x * self.w
        else:
            self.cache = self.cache + x * self.w
        return self.cache * self.w


@pytest.mark.parametrize("in_place", [False, True])
def test_buffers_are_written_in_every_mode(in_place):
    layer = mlx2torch(Cached(in_place=in_place))
    for count in (1, 2, 3):
        layer.zero_grad()
        output = layer(X)
        assert output.tolist() == [[count, 12.0 * count]]
        output.sum().backward()
        # w * (earlier + x w) by w, where `earlier` is a constant
        assert layer.w.grad.tolist() == [count + 1.0, 6.0 * count + 6.0]
    assert layer.eval()(X).tolist() == [[4.0, 48.0]]
    assert layer.cache.tolist() == [[4.0, 24.0]]


@pytest.mark.parametrize("in_place", [False, True])
def test_apply_returns_new_buffers_in_evaluation_too(in_place):
    pytest.importorskip("jax")
    net = mlx2jax(Cached(in_place=in_place).eval())
    output, buffers = net.apply(net.params, net.buffers, X.numpy())
    output, buffers = net.apply(net.params, buffers, X.numpy())
    assert output.tolist() == [[2.0, 24.0]]
    assert buffers["cache"].tolist() == [[2.0, 12.0]]
    assert net.buffers["cache"].tolist() == [[0.0, 0.0]]


def test_a_buffer_becomes_another_in_place():
    class Following(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.target, self.source = mx.ones(2), mx.zeros(2), mx.array([3.0, 4.0])
            self.freeze(keys=["target", "source"])

        def __call__(self, x):
            self.target[...] = self.source  # the same array of MLX's graph now
            return x * self.w * self.target

    layer = mlx2torch(Following())
    assert layer(X).tolist() == [[3.0, 12.0]]
    assert layer.target.tolist() == layer.source.tolist() == [3.0, 4.0]


def test_parameters_that_are_written_to_are_refused():
    class Decaying(nn.Linear):
        def __call__(self, x):
            self.weight *= 0.5
            return super().__call__(x)

    module = Decaying(2, 2)
    weight = module.weight.tolist()
    with pytest.raises(bridge.ArgumentError, match=r"Decaying changes.*'weight'"):
        mlx2torch(module)(X)
    assert module.weight.tolist() == weight


class Uncopied(Scaled):
    """A layer that cannot be copied."""

    def __init__(self, kind):
        super().__init__()
        self.kept = {
            "a lock": threading.Lock,
            "a closure": lambda: lambda: self.w,
            "a compiled method": lambda: mx.compile(self.run, inputs=self.state),
            "a function around one": lambda: nn.value_and_grad(self, lambda x: x),
        }[kind]()

    def run(self, x):
        return x * self.w


@pytest.mark.parametrize(
    "kind", ["a lock", "a closure", "a compiled method", "a function around one"]
)
def test_what_cannot_be_copied_is_used_and_may_not_be_edited(kind):
    module = Uncopied(kind)
    layer = mlx2torch(module)
    before = layer(X)
    module.w = module.w * 2
    assert torch.equal(layer(X), before)
    with pytest.raises(bridge.ArgumentError, match="cannot be copied"):
        to_mlx(layer)
    module.norm.eps = 3.0
    with pytest.raises(bridge.ArgumentError, match="was changed after it was wrapped, in 'eps'"):
        layer(X)
    assert mlx2torch(module)(X).shape == before.shape


def test_a_compiled_method_computes_with_the_parameters_of_the_layer():
    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = mx.array([1.0, 2.0])
            self.fast = mx.compile(self.slow, inputs=self.state)

        def slow(self, x):
            return x * self.w

        def __call__(self, x):
            return self.fast(x)

    layer = mlx2torch(Compiled())
    layer(X).sum().backward()
    assert layer.w.grad.tolist() == [1.0, 3.0]
    with torch.no_grad():
        layer.w.mul_(3)
    assert layer(X).tolist() == [[3.0, 18.0]]
