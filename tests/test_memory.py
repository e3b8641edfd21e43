"""Who may write where: no result shares memory, and no late write makes a gradient wrong."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.tensors import aligned, leaves  # noqa: E402

RANDOM = np.random.default_rng(12)
X = RANDOM.uniform(0.3, 1.5, (4, 3)).astype("float32")
Y = RANDOM.uniform(-1.5, 1.5, (4, 3)).astype("float32")
MEGABYTES = 1_000_000  # float32 numbers: 4 MB, enough for JAX to compute them in the background


def span(x):
    """The bytes a tensor lies in."""
    start = x.data_ptr()
    return range(start, start + x.numel() * x.element_size())


def overlap(a, b):
    a, b = span(a), span(b)
    return a.start < b.stop and b.start < a.stop


# In-place changes between forward and backward.


def test_input_changed_before_backward(into_torch):
    source, wrap = into_torch
    x, y = leaves(X, Y)
    loss = wrap(lambda x, y: (source.xp.sin(x) * y).sum())(x, y)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_constant_input_changed_before_backward(into_torch):
    """x * w with w updated meanwhile, as an optimizer does: an error, not another gradient."""
    _, wrap = into_torch
    (x,), w = leaves(X), torch.tensor(Y)
    loss = wrap(lambda x, w: (x * w).sum())(x, w)
    w.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_input_changed_before_second_order(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    (g,) = torch.autograd.grad(wrap(source.xp.sin)(x).sum(), x, create_graph=True)
    with torch.no_grad():
        x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        g.sum().backward()


def test_result_that_is_a_residual_changed_before_backward(into_torch):
    """The derivative of exp is its result."""
    source, wrap = into_torch
    if source.name == "mlx":
        pytest.skip("the graph that MLX keeps has a result of its own")
    (x,) = leaves(X)
    y = wrap(source.xp.exp)(x)
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_result_changed_in_place_by_the_graph(into_torch):
    """An in-place operation that autograd records is part of the function."""
    _, wrap = into_torch
    (x,) = leaves(X)
    y = wrap(lambda x: x * x)(x)
    y.mul_(3)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 6 * x.detach())


def test_one_result_changed_in_place_leaves_the_other(into_torch):
    """Each of several results may be written: none is a view."""
    source, wrap = into_torch
    (x,) = leaves(X)
    a, b = wrap(lambda x: (x * x, source.xp.sin(x)))(x)
    b.mul_(2)
    (a.sum() + b.sum()).backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() + 2 * x.detach().cos())


def test_changed_after_backward(into_torch):
    """Once the graph is freed, inputs may be written: a training loop does."""
    source, wrap = into_torch
    f = wrap(lambda x: (source.xp.sin(x) ** 2).sum())
    here, there = leaves(X, X)
    for x, loss in ((here, lambda x: (torch.sin(x) ** 2).sum()), (there, f)):
        optimizer = torch.optim.SGD([x], lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            loss(x).backward()
            optimizer.step()
    torch.testing.assert_close(there, here)


def test_numpy_argument_changed_before_backward(into_torch):
    """NumPy has no version counter, so the value of the call counts."""
    _, wrap = into_torch
    (x,), w = leaves(X), Y.copy()
    loss = wrap(lambda x, w: (x * w).sum())(x, w)
    w[:] = 0
    loss.backward()
    torch.testing.assert_close(x.grad, torch.tensor(Y))


def test_numpy_argument_changed_before_second_order(into_torch):
    _, wrap = into_torch
    (x,), w = leaves(X), Y.copy()
    y = wrap(lambda x, w: x * x * w)(x, w)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    w[:] = 0
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], 2 * torch.tensor(Y))


# Addresses.

RESULTS = {
    "input": lambda xp, x: (x,),
    "input twice": lambda xp, x: (x, x),
    "input and its copy": lambda xp, x: (x, x * 1),
    "result twice": lambda xp, x: (lambda y: (y, y))(xp.sin(x)),
    "parts of a result": lambda xp, x: (lambda y: (y, y[1:], y.T, y.reshape(-1)))(xp.sin(x)),
    "part of an input": lambda xp, x: (x[0], x[1:]),
    "transposed input": lambda xp, x: (x.T, x.reshape(-1)),
    "two constants": lambda xp, x: (xp.zeros((4, 3)), xp.zeros((4, 3))),
    "mixed": lambda xp, x: (x, xp.zeros((4, 3)), xp.sin(x), x),
}


@pytest.mark.parametrize("mode", ["plain", "graph", "vmap"])
@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results_share_no_memory(into_torch, function, mode):
    source, wrap = into_torch
    x = torch.tensor(X, requires_grad=mode == "graph")
    f = wrap(lambda x: function(source.xp, x))
    results = torch.func.vmap(f)(torch.stack([x, x + 1])) if mode == "vmap" else f(x)
    everything = [x, *results]
    pairs = [(i, j) for i in range(len(everything)) for j in range(i)]
    assert not [(i, j) for i, j in pairs if overlap(everything[i], everything[j])]
    for y in results:
        y.detach().fill_(7)  # writable
    assert torch.equal(x.detach(), torch.tensor(X))


@pytest.mark.parametrize("mode", ["plain", "graph"])
@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_overwritten_results_do_not_change_later_calls(into_torch, function, mode):
    source, wrap = into_torch
    f = wrap(lambda x: function(source.xp, x))
    x = torch.tensor(X, requires_grad=mode == "graph")
    expected = [y.detach().clone() for y in f(x)]
    for y in f(x):
        y.detach().fill_(7)
    torch.testing.assert_close([y.detach() for y in f(x)], expected)


def test_gradients_share_no_memory(into_torch):
    """The gradient of a sum is the cotangent itself; each input gets its own."""
    _, wrap = into_torch
    x, y = leaves(X, Y)
    given = torch.rand(4, 3)
    gradients = torch.autograd.grad(wrap(lambda x, y: x + y)(x, y), (x, y), given)
    assert not overlap(*gradients)
    assert not any(overlap(g, given) for g in gradients)


def test_gradient_overwritten_leaves_the_next_one(into_torch):
    """A linear function has a constant gradient, which must not be handed out itself."""
    _, wrap = into_torch
    f = wrap(lambda x: (x * 3).sum())
    for _ in range(3):
        (x,) = leaves(X)
        f(x).backward()
        assert torch.equal(x.grad, torch.full((4, 3), 3.0))
        x.grad.fill_(-1)


def test_arguments_are_only_read(into_torch):
    source, wrap = into_torch
    x, y = torch.tensor(X), torch.tensor(Y)
    wrap(lambda x, y: source.xp.sin(x) + y)(x, y)
    assert torch.equal(x, torch.tensor(X))
    assert torch.equal(y, torch.tensor(Y))
    assert (x._version, y._version) == (0, 0)


# Time: JAX computes in the background, torch does not wait.


def test_input_overwritten_right_after_the_call(into_torch):
    """200 rounds; a jitted call of JAX that nobody waits for is wrong in 139 of them."""
    _, wrap = into_torch
    f = wrap(lambda x: x + x)
    x = aligned(MEGABYTES)
    wrong = 0
    for _ in range(200):
        x.fill_(0.5)
        y = f(x)
        x.fill_(-9.0)
        wrong += not bool((y[::61] == 1.0).all())
    assert wrong == 0


def test_input_overwritten_right_after_the_backward(into_torch):
    """The forward borrows x and w, the backward w and the cotangent."""
    _, wrap = into_torch
    f = wrap(lambda x, w: x * w)
    x, w, given = aligned(MEGABYTES).requires_grad_(), aligned(MEGABYTES), aligned(MEGABYTES)
    wrong = 0
    for i in range(50):
        w.fill_(0.5)
        given.fill_(i)
        with torch.no_grad():
            x.fill_(4.0)
        y = f(x, w)
        (g,) = torch.autograd.grad(y, x, given)
        for borrowed in (x.detach(), w, given):
            borrowed.fill_(-9.0)
        wrong += not bool((g[::61] == 0.5 * i).all() and (y[::61] == 2.0).all())
    assert wrong == 0


def test_result_overwritten_right_after_the_call(into_torch):
    """A result that is a residual is borrowed by nothing once the call is over."""
    source, wrap = into_torch
    f = wrap(lambda x: (source.xp.sin(x), source.xp.sin(x) * x))
    x = torch.full((MEGABYTES,), 0.5, requires_grad=True)
    for _ in range(10):
        first, second = f(x)
        first.detach().zero_()
        assert torch.allclose(second, x.detach().sin() * 0.5)


def test_inputs_freed_right_after_the_call(into_torch):
    """What was borrowed is given back before its owner's memory can be used again."""
    _, wrap = into_torch
    f = wrap(lambda x: x + x)
    results = []
    for _ in range(20):
        results.append(f(torch.full((MEGABYTES,), 0.5)))
        torch.full((MEGABYTES,), -9.0)
    assert all(bool((y == 1.0).all()) for y in results)


# Layouts, which decide between borrowing and copying.


@pytest.mark.parametrize("where", ["aligned", "unaligned", "strided", "expanded"])
def test_layout_makes_no_difference_to_gradients(into_torch, where):
    source, wrap = into_torch
    base = torch.linspace(-1, 1, 40).requires_grad_()
    view = {
        "aligned": lambda b: b[:16],
        "unaligned": lambda b: b[1:17],
        "strided": lambda b: b[3:35:2],
        "expanded": lambda b: b[5:6].expand(16),
    }[where]
    weights = torch.arange(16.0)
    f = wrap(lambda x, w: (source.xp.sin(x) * w).sum())
    (expected,) = torch.autograd.grad((torch.sin(view(base)) * weights).sum(), base)
    torch.testing.assert_close(torch.autograd.grad(f(view(base), weights), base)[0], expected)
