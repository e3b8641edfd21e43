"""A gradient is right or an error, whatever is written to or resized in between."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.tensors import aligned, leaves  # noqa: E402

RANDOM = np.random.default_rng(31)
X = RANDOM.uniform(0.3, 1.5, (4, 3)).astype("float32")
W = RANDOM.uniform(-1.5, 1.5, (4, 3)).astype("float32")
INDEX = np.array([2, 0, 3, 0])
CHANGED_IN_PLACE = "modified by an inplace operation"
MODES = {
    "save": {"residuals": "save"},
    "recompute": {"residuals": "recompute"},
    "eager": {"jit": False},
}
# Changes in place: an error or no difference, never another gradient.

FUNCTIONS = {
    "exp": lambda xp, x, w, i: xp.exp(x) * w,
    "matmul": lambda xp, x, w, i: (x @ w.T) @ x,
    "input": lambda xp, x, w, i: x,
    "index": lambda xp, x, w, i: x[i] * w[i] * x,
    "where": lambda xp, x, w, i: xp.where(x > w, x * w, w),
}
CHANGES = {
    "input": lambda x, w, i, y: x.mul_(2),
    "part of an input": lambda x, w, i, y: x[1:3].zero_(),
    "view of an input": lambda x, w, i, y: x.view(-1).copy_(torch.arange(12.0)),
    "detached input": lambda x, w, i, y: x.detach().zero_(),
    "out= of an operation": lambda x, w, i, y: torch.add(w, 1, out=w.detach()),
    "another input": lambda x, w, i, y: w.zero_(),
    "integer input": lambda x, w, i, y: i.fill_(1),
    "result": lambda x, w, i, y: y.zero_(),
    "part of a result": lambda x, w, i, y: y[:2].add_(5),
    "detached result": lambda x, w, i, y: y.detach().fill_(3),
}


def first_gradient(fn, x, w, i, change=lambda *xs: None):
    y = fn(x, w, i)
    given = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    with torch.no_grad():
        change(x, w, i, y)
    return torch.autograd.grad(y, (x, w), given, allow_unused=True, materialize_grads=True)


def second_gradient(fn, x, w, i, change=lambda *xs: None):
    y = fn(x, w, i)
    given = torch.linspace(-1, 1, y.numel()).reshape(y.shape).requires_grad_()
    (g,) = torch.autograd.grad(y, x, given, create_graph=True)
    with torch.no_grad():
        change(x, w, i, y)
    return torch.autograd.grad(
        g, (x, w, given), torch.ones_like(g), allow_unused=True, materialize_grads=True
    )


def wrong_after(change, gradient, fn, expected):
    """Whether a gradient is computed after a change, and is not that of the call."""
    try:
        found = gradient(fn, *leaves(X, W), torch.tensor(INDEX), change)
    except RuntimeError as error:
        return CHANGED_IN_PLACE not in str(error)
    pairs = zip(found, expected, strict=True)
    return not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("gradient", [first_gradient, second_gradient])
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_change_before_backward_never_makes_a_wrong_gradient(into_torch, function, mode, gradient):
    source, wrap = into_torch
    native = lambda *xs: function(torch, *xs)
    expected = gradient(native, *leaves(X, W), torch.tensor(INDEX))
    f = wrap(lambda *xs: function(source.xp, *xs), **mode)
    assert not wrong_after(lambda *xs: None, gradient, f, expected)
    assert [n for n, change in CHANGES.items() if wrong_after(change, gradient, f, expected)] == []


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_change_that_autograd_records_is_an_error(into_torch, mode):
    """The input is no leaf, and multiplied by two between the call and its backward."""
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x, **mode)
    (x,) = leaves(X)
    h = x * 1
    y = f(h)
    h.mul_(2)
    with pytest.raises(RuntimeError, match=CHANGED_IN_PLACE):
        y.sum().backward()


# Addresses of derivatives; those of results are in test_memory.

LINEAR = {
    "identity": lambda xp, x: x,
    "transposed": lambda xp, x: x.T,
    "flat": lambda xp, x: x.reshape(-1),
    "twice negated": lambda xp, x: xp.negative(-x),
    "part": lambda xp, x: x[1:3],
    "times one": lambda xp, x: x * 1,
}
DERIVATIVES = {
    "vjp": lambda f, x, v: torch.func.vjp(f, x)[1](torch.ones_like(f(x)) if v is None else v),
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,)),
    "vmap": lambda f, x, v: (torch.func.vmap(f)(torch.stack([x, v])),),
    "jvp of jvp": lambda f, x, v: torch.func.jvp(
        lambda x: torch.func.jvp(f, (x,), (v,))[1], (x,), (v,)
    ),
}


def span(x):
    """The bytes a tensor lies in."""
    start = x.untyped_storage().data_ptr()
    return range(start, start + x.untyped_storage().nbytes())


def overlap(a, b):
    a, b = span(a), span(b)
    return a.start < b.stop and b.start < a.stop


@pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=DERIVATIVES)
@pytest.mark.parametrize("function", LINEAR.values(), ids=LINEAR)
def test_derivatives_share_no_memory(into_torch, function, derivative):
    """The derivative of a linear function can be what it is applied to."""
    source, wrap = into_torch
    f = wrap(lambda x: function(source.xp, x))
    x, v = torch.tensor(X), torch.tensor(W)
    given = function(torch, v).clone() if derivative is DERIVATIVES["vjp"] else v
    found = derivative(f, x, given)
    everything = [x, given, *found]
    pairs = [(i, j) for i in range(len(everything)) for j in range(i)]
    assert not [(i, j) for i, j in pairs if overlap(everything[i], everything[j])]
    expected = derivative(lambda x: function(torch, x), x.clone(), given.clone())
    torch.testing.assert_close(tuple(found), tuple(expected))
    for y in found:
        y.fill_(7)  # writable, and nobody else's
    torch.testing.assert_close(tuple(derivative(f, x, given)), tuple(expected))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_constant_of_the_function_is_not_handed_out(into_torch, mode):
    """Neither as a result nor as the gradient of a product with it."""
    source, wrap = into_torch
    constant = source.array(W)
    f = wrap(lambda x: (constant, x * constant), **mode)
    for _ in range(2):
        (x,) = leaves(X)
        result, product = f(x)
        given = torch.ones_like(x)
        (g,) = torch.autograd.grad(product, x, given)
        expected = torch.tensor(W), torch.tensor(X) * torch.tensor(W), torch.tensor(W)
        torch.testing.assert_close((result, product, g), expected)
        for y in (result, product, g, given):
            y.detach().fill_(7)
    assert np.array_equal(source.numpy(constant), W)


BORROWED = {
    "value": lambda f, x, w: f(x.detach(), w.detach()),
    "gradient": lambda f, x, w: torch.autograd.grad(f(x, w).sum(), x, create_graph=True),
    "tangent": lambda f, x, w: torch.func.jvp(f, (x.detach(), w.detach()), (x.detach(), w)),
    "batch": lambda f, x, w: torch.func.vmap(f)(x, w),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("use", BORROWED.values(), ids=BORROWED)
def test_memory_of_an_argument_can_be_resized_after_the_call(into_torch, use, mode):
    """`Tensor.numpy()` forbids it forever, and FSDP frees gathered parameters by resizing them."""
    source, wrap = into_torch
    x, w = leaves(X, W)
    use(wrap(lambda x, w: source.xp.sin(x) * w, **mode), x, w)
    assert [t.untyped_storage().resizable() for t in (x, w)] == [True, True]


def test_memory_of_low_precision_can_be_resized_after_the_call(into_torch):
    """FSDP gathers parameters in bfloat16 if it is asked to mix precisions."""
    _, wrap = into_torch
    x = torch.tensor(X, dtype=torch.bfloat16)
    torch.testing.assert_close(wrap(lambda x: x * 2)(x), x * 2)
    resizable = x.untyped_storage().resizable()
    assert resizable


PUT_OFF = {
    "conjugation": lambda: torch.complex(torch.tensor(X), torch.tensor(W)).conj(),
    "negation": lambda: torch.complex(torch.tensor(X), torch.tensor(W)).conj().imag,
    "zeros": lambda: torch._efficientzerotensor(4, 3),
    "parameter": lambda: torch.nn.Parameter(torch.tensor(X)),
    "subclass": lambda: torch.tensor(X).as_subclass(Marked),
}


class Marked(torch.Tensor):
    """What libraries make to keep something beside a tensor."""


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("make", PUT_OFF.values(), ids=PUT_OFF)
def test_values_that_memory_does_not_show_are_seen(into_torch, make, mode):
    """torch puts some operations off until somebody looks, and not every way to look is one."""
    source, wrap = into_torch
    found = wrap(lambda x: source.xp.sin(x) + x, **mode)(make())
    expected = make().clone().as_subclass(torch.Tensor)
    torch.testing.assert_close(found, expected.sin() + expected)


def test_memory_of_a_cotangent_can_be_resized_after_the_backward(into_torch):
    source, wrap = into_torch
    (x,), given = leaves(X), torch.tensor(W)
    torch.autograd.grad(wrap(source.xp.sin)(x), x, given)
    resizable = given.untyped_storage().resizable()
    assert resizable


# Time: JAX computes in the background, torch overwrites 4 MB as soon as it has control again.

ROUNDS = [40, pytest.param(1000, marks=pytest.mark.slow)]
NUMBERS = 1_000_000


def is_all(x, value):
    return torch.allclose(x[::61], torch.tensor(float(value)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_input_and_cotangent_overwritten_at_once(into_torch, mode, rounds):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x, **mode)
    memory, given = aligned(NUMBERS), aligned(NUMBERS)
    x = memory.requires_grad_()
    wrong = 0
    for i in range(rounds):
        v = 0.1 + i / rounds
        memory.detach().fill_(v)
        y = f(x)
        given.fill_(v + 1)
        (g,) = torch.autograd.grad(y, x, given)
        given.fill_(-9)
        memory.detach().fill_(-9)
        slope = (np.cos(v) * v + np.sin(v)) * (v + 1)
        wrong += not (is_all(y.detach(), np.sin(v) * v) and is_all(g, slope))
    assert wrong == 0


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_input_overwritten_at_once_where_no_gradient_is_wanted(into_torch, mode, rounds):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x, **mode)
    x = aligned(NUMBERS)
    wrong = 0
    for i in range(rounds):
        v = 0.1 + i / rounds
        x.fill_(v)
        y = f(x)
        x.fill_(-9)
        wrong += not is_all(y, np.sin(v) * v)
    assert wrong == 0


@pytest.mark.parametrize("rounds", ROUNDS)
def test_residuals_are_written_before_the_call_returns(into_torch, rounds):
    """NumPy writes without autograd noticing: only what the forward has computed still counts."""
    source, wrap = into_torch
    if source.name != "jax":
        pytest.skip("the derivative of sin keeps the cosine in JAX")
    f = wrap(source.xp.sin, residuals="save")
    x = aligned(NUMBERS).requires_grad_()
    memory = x.detach().numpy()
    wrong = 0
    for i in range(rounds):
        v = 0.1 + i / rounds
        memory[:] = v
        y = f(x)
        memory[:] = -9
        (g,) = torch.autograd.grad(y.sum(), x)
        wrong += not (is_all(y.detach(), np.sin(v)) and is_all(g, np.cos(v)))
    assert wrong == 0
