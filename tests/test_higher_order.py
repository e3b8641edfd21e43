"""Derivatives of every order, in reverse and forward mode and in both at once."""

import numpy as np
import pytest

RANDOM = np.random.default_rng(6)
X = RANDOM.uniform(-1.2, 1.4, (3,)).astype("float32")
Y = RANDOM.uniform(0.3, 1.7, (3,)).astype("float32")
V = RANDOM.normal(size=(3,)).astype("float32")

SCALARS = {
    "separable": lambda xp, x: (xp.sin(x) * x).sum(),
    "not separable": lambda xp, x: xp.exp((x * xp.tanh(x)).sum()),
    "polynomial": lambda xp, x: (x**4).sum() * x.sum(),
    "linear": lambda xp, x: (3 * x).sum(),
}
every_scalar = pytest.mark.parametrize("function", SCALARS.values(), ids=SCALARS)


def along(target, fn):
    """The derivative of `fn` along V, a scalar function again."""
    v = target.array(V)
    return lambda x: (target.grad(fn)(x) * v).sum()


@every_scalar
@pytest.mark.parametrize("order", [1, 2, 3])
def test_gradient_of_every_order_equals_native(kits, bridged, function, order):
    source, target = kits
    there, here = bridged(lambda x: function(source.xp, x)), lambda x: function(target.xp, x)
    for _ in range(order - 1):
        there, here = along(target, there), along(target, here)
    found, expected = (target.numpy(target.grad(f)(target.array(X))) for f in (there, here))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, strict=True)


@every_scalar
def test_forward_over_reverse_equals_native(kits, bridged, function):
    source, target = kits
    x, v = target.array(X), target.array(V)
    product = lambda f: target.numpy(target.jvp(target.grad(f), (x,), (v,)))
    found = product(bridged(lambda x: function(source.xp, x)))
    expected = product(lambda x: function(target.xp, x))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, strict=True)


@every_scalar
def test_reverse_over_forward_equals_native(kits, bridged, function):
    source, target = kits
    x, v = target.array(X), target.array(V)
    product = lambda f: target.numpy(target.grad(lambda x: target.jvp(f, (x,), (v,)))(x))
    found = product(bridged(lambda x: function(source.xp, x)))
    expected = product(lambda x: function(target.xp, x))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, strict=True)


def test_forward_over_forward_equals_native(kits, bridged):
    source, target = kits
    x, v = target.array(X), target.array(V)
    inner = lambda f: lambda x: target.jvp(f, (x,), (v,))
    product = lambda f: target.numpy(target.jvp(inner(f), (x,), (v,)))
    found = product(bridged(lambda x: source.xp.sin(x) * x.sum()))
    expected = product(lambda x: target.xp.sin(x) * x.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, strict=True)


def test_mixed_second_derivative_equals_native(kits, bridged):
    """d/dy of d/dx, through two arguments and one unused output."""
    source, target = kits

    def mixed(f):
        slope = lambda x, y: (target.grad(lambda x, y: f(x, y)[0].sum(), 0)(x, y) ** 2).sum()
        return target.numpy(target.grad(slope, 1)(target.array(X), target.array(Y)))

    function = lambda xp, x, y: (xp.sin(x * y), xp.exp(x))
    found = mixed(bridged(lambda *xs: function(source.xp, *xs)))
    expected = mixed(lambda *xs: function(target.xp, *xs))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4, strict=True)


# What only torch has: finite differences as judge, graphs of graphs, dual numbers.


def doubles(torch, *points):
    return tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in points)


CHECKED = {
    "scalar": (lambda xp, x: xp.exp((x * xp.tanh(x)).sum()), (X,)),
    "elementwise": (lambda xp, x: xp.sin(x) * x * x, (X,)),
    "two inputs": (lambda xp, x, y: xp.sin(x) / y + x @ y, (X, Y)),
    "two outputs": (lambda xp, x, y: (xp.sin(x * y), (x * x * y).sum()), (X, Y)),
    "output that is an input": (lambda xp, x: (x, xp.exp(x)), (X,)),
    "unused input": (lambda xp, x, y: xp.sin(x) * x, (X, Y)),
    "linear": (lambda xp, x: xp.concatenate([x[1:], 3 * x]), (X,)),
}
every_checked = pytest.mark.parametrize(("function", "points"), CHECKED.values(), ids=CHECKED)


@every_checked
def test_gradcheck(into_torch, torch, function, points):
    source, wrap = into_torch
    assert torch.autograd.gradcheck(
        wrap(lambda *xs: function(source.xp, *xs)),
        doubles(torch, *points),
        check_forward_ad=True,
        check_backward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        **source.steps,
    )


@pytest.mark.parametrize("name", ["scalar", "two outputs", "unused input", "linear"])
def test_gradgradcheck(into_torch, torch, name):
    source, wrap = into_torch
    function, points = CHECKED[name]
    assert torch.autograd.gradgradcheck(
        wrap(lambda *xs: function(source.xp, *xs)),
        doubles(torch, *points),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
        **source.steps,
    )


def test_gradcheck_of_the_second_derivative(into_torch, torch):
    """Third order, against finite differences of the second."""
    source, wrap = into_torch
    f = wrap(lambda x: (source.xp.sin(x) * x).sum() * x.sum())

    def slope(x):
        (g,) = torch.autograd.grad(f(x), x, create_graph=True)
        return g

    assert torch.autograd.gradgradcheck(slope, doubles(torch, X), **source.steps)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_third_order_of_autograd_in_closed_form(into_torch, torch, residuals):
    source, wrap = into_torch
    if source.name != "jax":
        pytest.skip("residuals= is an option of JAX")
    (x,) = doubles(torch, X)
    y = wrap(source.xp.sin, residuals=residuals)(x)
    for expected in (x.cos(), -x.sin(), -x.cos()):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(y, expected)


def penalty(torch, f, x, y):
    """A loss with the squared norm of its own gradient, as in a WGAN."""
    loss = f(x, y)
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + (g * g).sum()


def energy(xp, x, y):
    return (xp.sin(x) * y * y).sum() * xp.exp(x).sum()


def test_gradient_penalty_through_backward(into_torch, torch):
    source, wrap = into_torch
    here, there = doubles(torch, X, Y), doubles(torch, X, Y)
    penalty(torch, lambda *xs: energy(torch, *xs), *here).backward()
    penalty(torch, wrap(lambda *xs: energy(source.xp, *xs)), *there).backward()
    torch.testing.assert_close([x.grad for x in there], [x.grad for x in here])


def test_gradient_penalty_through_autograd_grad(into_torch, torch):
    source, wrap = into_torch
    xs = doubles(torch, X, Y)
    expected = torch.autograd.grad(penalty(torch, lambda *xs: energy(torch, *xs), *xs), xs)
    there = wrap(lambda *xs: energy(source.xp, *xs))
    found = torch.autograd.grad(penalty(torch, there, *xs), xs)
    torch.testing.assert_close(found, expected)


def test_double_backward_into_the_cotangent(into_torch, torch):
    """The gradient is linear in the cotangent, which gets a gradient itself."""
    source, wrap = into_torch
    x, v = doubles(torch, X, V)
    (g,) = torch.autograd.grad(wrap(source.xp.sin)(x), x, v, create_graph=True)
    (found,) = torch.autograd.grad(g.sum(), v)
    torch.testing.assert_close(found, x.detach().cos())


@pytest.mark.parametrize("used", [0, 1])
def test_double_backward_of_one_of_two_outputs(into_torch, torch, used):
    source, wrap = into_torch
    function = lambda xp, x, y: (xp.sin(x * y), (x * x * y).sum())
    xs = doubles(torch, X, Y)

    def second(f):
        (g,) = torch.autograd.grad(f(*xs)[used].sum(), xs[0], create_graph=True)
        return torch.autograd.grad((g**2).sum(), xs)

    found = second(wrap(lambda *xs: function(source.xp, *xs)))
    torch.testing.assert_close(found, second(lambda *xs: function(torch, *xs)))


def test_second_order_without_create_graph_has_no_graph(into_torch, torch):
    source, wrap = into_torch
    (x,) = doubles(torch, X)
    (g,) = torch.autograd.grad(wrap(source.xp.sin)(x).sum(), x)
    assert not g.requires_grad


def dual_derivatives(torch, f, x, v):
    """The gradient and its tangent, by dual numbers through a backward pass."""
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, v)
        (g,) = torch.autograd.grad(f(moving).sum(), moving)
        return forward_ad.unpack_dual(g)


def test_dual_number_forward(into_torch, torch):
    source, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    (x,), v = doubles(torch, X), torch.tensor(V, dtype=torch.float64)
    with forward_ad.dual_level():
        out = wrap(source.xp.sin)(forward_ad.make_dual(x.detach(), v))
        value, tangent = forward_ad.unpack_dual(out)
    torch.testing.assert_close(value, x.detach().sin())
    torch.testing.assert_close(tangent, x.detach().cos() * v)


def test_dual_number_beside_a_constant(into_torch, torch):
    _, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    x, v = torch.tensor(X), torch.tensor(V)
    with forward_ad.dual_level():
        a, b = wrap(lambda x, y: (x * y, y * y))(forward_ad.make_dual(x, v), torch.tensor(Y))
        torch.testing.assert_close(forward_ad.unpack_dual(a).tangent, v * torch.tensor(Y))
        still = forward_ad.unpack_dual(b).tangent
    assert still is None or not still.any()


def test_dual_number_in_the_second_argument(into_torch, torch):
    source, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    x, y, v = (torch.tensor(a) for a in (X, Y, V))
    with forward_ad.dual_level():
        out = wrap(lambda x, y: x * source.xp.sin(y))(x, forward_ad.make_dual(y, v))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, x * y.cos() * v)


def test_dual_number_through_backward_keeps_its_tangent(into_torch, torch):
    """Forward over reverse without torch.func: the tangent of a gradient is not dropped."""
    source, wrap = into_torch
    (x,), v = doubles(torch, X), torch.tensor(V, dtype=torch.float64)
    expected = dual_derivatives(torch, torch.sin, x, v)
    found = dual_derivatives(torch, wrap(source.xp.sin), x, v)
    torch.testing.assert_close(found.primal, expected.primal)
    torch.testing.assert_close(found.tangent, expected.tangent)


def test_dual_cotangent_through_backward_keeps_its_tangent(into_torch, torch):
    """Only the cotangent moves: the derivative of the pullback along it."""
    source, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    (x,), v = doubles(torch, X), torch.tensor(V, dtype=torch.float64)
    y = wrap(source.xp.sin)(x)
    with forward_ad.dual_level():
        given = forward_ad.make_dual(torch.ones_like(x), v)
        (g,) = torch.autograd.grad(y, x, given)
        tangent = forward_ad.unpack_dual(g).tangent
    torch.testing.assert_close(tangent, x.detach().cos() * v)


def test_backward_through_the_tangent_of_a_dual_number(into_torch, torch):
    """Reverse over forward without torch.func."""
    source, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    (x,), v = doubles(torch, X), torch.tensor(V, dtype=torch.float64)
    with forward_ad.dual_level():
        out = wrap(source.xp.sin)(forward_ad.make_dual(x, v))
        (g,) = torch.autograd.grad(forward_ad.unpack_dual(out).tangent.sum(), x)
    torch.testing.assert_close(g, -x.detach().sin() * v)


def test_dual_numbers_of_several_results(into_torch, torch):
    """Integer results have no tangent, all others have theirs."""
    source, wrap = into_torch
    forward_ad = torch.autograd.forward_ad
    x, v = torch.tensor(X), torch.tensor(V)
    f = wrap(lambda x: (source.xp.argmax(x), source.xp.sin(x), x * x))
    with forward_ad.dual_level():
        where, sine, square = f(forward_ad.make_dual(x, v))
        assert forward_ad.unpack_dual(where).tangent is None
        torch.testing.assert_close(forward_ad.unpack_dual(sine).tangent, x.cos() * v)
        torch.testing.assert_close(forward_ad.unpack_dual(square).tangent, 2 * x * v)
