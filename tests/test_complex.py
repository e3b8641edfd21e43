"""Complex derivatives follow the caller's convention, holomorphic or not."""

import numpy as np
import pytest

RANDOM = np.random.default_rng(3)
X = RANDOM.uniform(0.4, 1.6, (2, 2)).astype("float32")
Z = (RANDOM.normal(size=(2, 2)) + 1j * RANDOM.uniform(0.3, 1.4, (2, 2))).astype("complex64")
V = (RANDOM.normal(size=(2, 2)) - 1j * RANDOM.uniform(0.3, 1.4, (2, 2))).astype("complex64")

FUNCTIONS = {
    "holomorphic": (lambda xp, z: z * z * xp.exp(z), (Z,)),
    "reciprocal": (lambda xp, z: 1 / (z + 2), (Z,)),
    "sine": (lambda xp, z: xp.sin(z), (Z,)),
    "contraction": (lambda xp, z, v: z @ v @ z, (Z, V)),
    "times a complex number": (lambda xp, z: (2 - 3j) * z, (Z,)),
    "conjugate": (lambda xp, z: xp.conj(z) * (1 + 2j), (Z,)),
    "conjugate and itself": (lambda xp, z: z * z * xp.conj(z), (Z,)),
    "modulus": (lambda xp, z: xp.abs(z), (Z,)),
    "squared modulus": (lambda xp, z: xp.real(z * xp.conj(z)), (Z,)),
    "real part": (lambda xp, z: xp.real(z * z * (1 - 2j)), (Z,)),
    "imaginary part": (lambda xp, z: xp.imag(xp.exp(z)), (Z,)),
    "real to complex": (lambda xp, x: xp.exp(1j * x) * x, (X,)),
    "real to complex to real": (lambda xp, x: xp.imag(xp.exp((0.5 + 1j) * x)), (X,)),
    "real times complex": (lambda xp, x, z: x * z * z, (X, Z)),
    "expectation": (lambda xp, z, v: xp.real(xp.conj(z).T * (v @ z @ v)).sum(), (Z, V)),
}
every_function = pytest.mark.parametrize(("function", "points"), FUNCTIONS.values(), ids=FUNCTIONS)


def direction(target, y):
    """An array like `y`, neither real nor the same anywhere."""
    y, random = target.numpy(y), np.random.default_rng(4)
    values = random.normal(size=y.shape)
    if np.iscomplexobj(y):
        values = values + 1j * random.normal(size=y.shape)
    return target.array(values.astype(y.dtype))


def assert_same(kit, found, expected):
    found, expected = kit.numpy(found), kit.numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5, strict=True)


@every_function
def test_complex_vjp_equals_native(kits, bridged, function, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    here = lambda *xs: function(target.xp, *xs)
    there = bridged(lambda *xs: function(source.xp, *xs))
    given = direction(target, here(*xs))
    expected = target.vjp(here, xs, given)
    for found, true in zip(target.vjp(there, xs, given), expected, strict=True):
        assert_same(target, found, true)


@every_function
def test_complex_jvp_equals_native(kits, bridged, function, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    tangents = [direction(target, x) for x in xs]
    here = lambda *xs: function(target.xp, *xs)
    there = bridged(lambda *xs: function(source.xp, *xs))
    expected = target.jvp(here, tuple(xs), tuple(tangents))
    assert_same(target, target.jvp(there, tuple(xs), tuple(tangents)), expected)


def test_complex_second_order_equals_native(kits, bridged):
    """The gradient of |gradient|**2, through conjugation both times."""
    source, target = kits
    function = lambda xp, z: xp.real(z * z * xp.conj(z) * (1 + 2j)).sum()
    there = bridged(lambda z: function(source.xp, z))

    def penalty(f):
        norm = lambda z: (target.xp.abs(target.grad(f)(z)) ** 2).sum()
        return target.grad(norm)(target.array(Z))

    assert_same(target, penalty(there), penalty(lambda z: function(target.xp, z)))


def doubles(torch, points):
    """The points as leaves of double precision, small because every entry is moved."""
    wide = {"float32": torch.float64, "complex64": torch.complex128}
    return [torch.tensor(x, dtype=wide[x.dtype.name], requires_grad=True) for x in points]


def widest(torch, source, points):
    """The same in single precision where the source has no complex numbers of double precision."""
    if source.holds("complex128"):
        return doubles(torch, points)
    return [torch.tensor(x, requires_grad=True) for x in points]


@every_function
def test_complex_autograd_equals_native(into_torch, torch, function, points):
    source, wrap = into_torch
    xs = widest(torch, source, points)
    y, true = wrap(lambda *xs: function(source.xp, *xs))(*xs), function(torch, *xs)
    random = torch.Generator().manual_seed(5)
    given = torch.randn(true.shape, generator=random, dtype=true.dtype)
    assert y.dtype == true.dtype
    torch.testing.assert_close(
        torch.autograd.grad(y, xs, given), torch.autograd.grad(true, xs, given)
    )


@every_function
@pytest.mark.needs("complex128")
def test_complex_gradcheck(into_torch, torch, function, points):
    source, wrap = into_torch
    there = wrap(lambda *xs: function(source.xp, *xs))
    xs = doubles(torch, points)
    assert torch.autograd.gradcheck(there, xs, check_forward_ad=True)


@pytest.mark.parametrize("name", ["holomorphic", "modulus", "real to complex", "expectation"])
@pytest.mark.needs("complex128")
def test_complex_gradgradcheck(into_torch, torch, name):
    source, wrap = into_torch
    function, points = FUNCTIONS[name]
    there = wrap(lambda *xs: function(source.xp, *xs))
    xs = doubles(torch, points)
    assert torch.autograd.gradgradcheck(there, xs, check_fwd_over_rev=True)


def test_complex_gradient_of_a_real_loss_points_uphill(into_torch, torch):
    """torch's convention, in closed form: the gradient of |z - c|**2 is 2 (z - c)."""
    source, wrap = into_torch
    z = torch.tensor(Z, requires_grad=True)
    wrap(lambda z: (source.xp.abs(z - (1 + 2j)) ** 2).sum())(z).backward()
    torch.testing.assert_close(z.grad, 2 * (z.detach() - (1 + 2j)))


def test_a_real_input_gets_a_real_gradient(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(X, requires_grad=True)
    y = wrap(lambda x: source.xp.exp(1j * x))(x)
    y.backward(torch.full_like(y, 2 - 3j))
    expected = ((2 + 3j) * 1j * torch.exp(1j * x.detach())).real
    torch.testing.assert_close(x.grad, expected)


def test_a_conjugated_view_of_a_leaf(into_torch, torch):
    """A tensor with the conjugate bit set, on the way in and on the way back."""
    source, wrap = into_torch
    function = lambda xp, z: xp.real(xp.exp(z) * (1 + 2j)).sum()
    z = torch.tensor(Z, requires_grad=True)
    assert z.conj().is_conj()
    (expected,) = torch.autograd.grad(function(torch, z.conj()), z)
    (found,) = torch.autograd.grad(wrap(lambda z: function(source.xp, z))(z.conj()), z)
    torch.testing.assert_close(found, expected)


def test_a_conjugated_cotangent(into_torch, torch):
    source, wrap = into_torch
    z = torch.tensor(Z, requires_grad=True)
    given = torch.tensor(Z * (2 - 1j)).conj()
    assert given.is_conj()
    (expected,) = torch.autograd.grad(torch.sin(z), z, given)
    (found,) = torch.autograd.grad(wrap(source.xp.sin)(z), z, given)
    torch.testing.assert_close(found, expected)


def test_a_negative_view_as_cotangent(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(X, requires_grad=True)
    given = torch.tensor(Z).conj().imag
    assert given.is_neg()
    (expected,) = torch.autograd.grad(torch.sin(x), x, given)
    (found,) = torch.autograd.grad(wrap(source.xp.sin)(x), x, given)
    torch.testing.assert_close(found, expected)


COMPLEX_TRANSFORMS = {
    "vmap": lambda torch, f, z: torch.func.vmap(f)(z),
    "vmap of vjp": lambda torch, f, z: torch.func.vmap(
        lambda z: torch.func.vjp(f, z)[1](z * (1 + 2j))[0]
    )(z),
    "vmap of jvp": lambda torch, f, z: torch.func.vmap(
        lambda z: torch.func.jvp(f, (z,), (z * (1 - 2j),))[1]
    )(z),
}


@pytest.mark.parametrize("transform", COMPLEX_TRANSFORMS.values(), ids=COMPLEX_TRANSFORMS)
def test_complex_torch_func_equals_native(into_torch, torch, transform):
    source, wrap = into_torch
    function = lambda xp, z: z * z * xp.conj(z) + xp.exp(1j * z)
    there = wrap(lambda z: function(source.xp, z))
    z = torch.tensor(Z)
    expected = transform(torch, lambda z: function(torch, z), z)
    torch.testing.assert_close(transform(torch, there, z), expected)
