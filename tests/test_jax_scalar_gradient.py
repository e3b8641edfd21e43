"""Functions with one number as a result: the gradient is computed along with it, then scaled."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above
from tests.tensors import leaves  # noqa: E402

RANDOM = np.random.default_rng(21)
X = RANDOM.uniform(-1.3, 1.5, (5, 3)).astype("float32")
W = RANDOM.uniform(-1.3, 1.5, (3, 4)).astype("float32")
Z = (X + 1j * RANDOM.uniform(-1.3, 1.5, X.shape)).astype("complex64")


def loss(xp, x, w):
    y = xp.tanh(xp.sin(x) @ w)
    return (y * y).mean()


@pytest.fixture
def there():
    """The function bridged; afterwards it must have been differentiated in this way."""
    f = jax2torch(lambda *xs: loss(jnp, *xs))
    yield f
    assert ways(f) == "gradient"


def ways(f):
    """What the repr says of the derivatives so far."""
    return repr(f).rpartition(": ")[2].removesuffix(">")


def agree(found, expected, **tolerances):
    torch.testing.assert_close(found, expected, equal_nan=True, **tolerances)


@pytest.mark.parametrize("cotangent", [1.0, -2.7, 0.0, 1e-20, float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiples_equal_native(there, cotangent, dtype):
    x, w = leaves(X, W, dtype=dtype)
    given = torch.tensor(cotangent, dtype=dtype)
    found = torch.autograd.grad(there(x, w), (x, w), given)
    agree(found, torch.autograd.grad(loss(torch, x, w), (x, w), given))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_one_number_of_any_shape(shape):
    f = jax2torch(lambda *xs: loss(jnp, *xs).reshape(shape))
    x, w = leaves(X, W)
    y = f(x, w)
    assert y.shape == shape
    found = torch.autograd.grad(y, (x, w), torch.full(shape, -1.5))
    agree(found, torch.autograd.grad(-1.5 * loss(torch, x, w), (x, w)))
    assert ways(f) == "gradient"


def test_two_numbers_are_another_matter():
    f = jax2torch(lambda *xs: jnp.stack([loss(jnp, *xs), 2 * loss(jnp, *xs)]))
    x, w = leaves(X, W)
    found = torch.autograd.grad(f(x, w), (x, w), torch.tensor([1.5, -2.0]))
    agree(found, torch.autograd.grad(-2.5 * loss(torch, x, w), (x, w)))
    assert "gradient" not in ways(f)


def test_an_infinite_multiple_is_not_finite(there):
    """Which infinities meet as `inf - inf` on the way is a matter of order."""
    x, w = leaves(X, W)
    for found in torch.autograd.grad(there(x, w), (x, w), torch.tensor(float("inf"))):
        assert not found.isfinite().any()


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_an_explicit_way_is_taken(residuals):
    f = jax2torch(lambda *xs: loss(jnp, *xs), residuals=residuals)
    f(*leaves(X, W)).backward()
    assert "gradient" not in ways(f)


def test_retained_graph_gives_every_multiple(there):
    x, w = leaves(X, W)
    y = there(x, w)
    for cotangent in (1.0, -2.0, 1.0):
        found = torch.autograd.grad(y, (x, w), torch.tensor(cotangent), retain_graph=True)
        agree(found, torch.autograd.grad(cotangent * loss(torch, x, w), (x, w)))


def test_freed_graph_raises_what_torch_raises(there):
    x, w = leaves(X, W)
    y = there(x, w)
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()


def test_input_changed_in_place_raises_what_torch_raises(there):
    x, w = leaves(X, W)
    y = there(x, w)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_gradients_share_no_memory_with_what_is_kept(there):
    x, w = leaves(X, W)
    y = there(x, w)
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    expected = first.clone()
    first.zero_()
    agree(torch.autograd.grad(y, x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_some_of_the_wanted_inputs_are_needed(there, wanted):
    points = leaves(X, W)
    needed = [points[i] for i in wanted]
    found = torch.autograd.grad(3 * there(*points), needed)
    agree(found, torch.autograd.grad(3 * loss(torch, *points), needed))


def test_an_input_without_requires_grad(there):
    x, w = torch.tensor(X), leaves(W)[0]
    there(x, w).backward()
    assert x.grad is None
    agree(w.grad, torch.autograd.grad(loss(torch, x, w), w)[0])


def test_only_gradients_are_kept_beside_the_inputs(there):
    x, w = leaves(X, W)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        there(x, w)
    assert [tuple(t.shape) for t in saved] == [(5, 3), (3, 4)] * 2
    assert [t.data_ptr() for t in saved[:2]] == [x.data_ptr(), w.data_ptr()]


def test_second_order_equals_native(there):
    x, w = leaves(X, W, dtype=torch.float64)
    assert torch.autograd.gradcheck(there, (x, w))
    assert torch.autograd.gradgradcheck(there, (x, w))


def test_second_order_after_a_multiple_equals_native(there):
    """The cotangent depends on the input as well."""
    x, w = leaves(X, W)

    def second(f):
        y = f(x, w)
        g = torch.autograd.grad(y * x.sum(), x, create_graph=True)
        return torch.autograd.grad(g[0].square().sum(), (x, w))

    agree(second(there), second(lambda x, w: loss(torch, x, w)), rtol=1e-3, atol=1e-4)


def test_batched_cotangents(there):
    x, w = leaves(X, W)
    given = torch.tensor([1.0, -2.0, 0.5])
    grad = lambda y: torch.autograd.grad(y, (x, w), given, is_grads_batched=True)
    agree(grad(there(x, w)), grad(loss(torch, x, w)))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(there, use_reentrant):
    x, w = leaves(X, W)
    torch.utils.checkpoint.checkpoint(there, x, w, use_reentrant=use_reentrant).backward()
    agree((x.grad, w.grad), torch.autograd.grad(loss(torch, x, w), (x, w)))


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)])
def test_a_loss_with_other_results(used):
    """Once it is known that only the loss has a cotangent, its gradient is taken with it."""

    def function(xp, x, w):
        return loss(xp, x, w), xp.sin(x) @ w

    f = jax2torch(lambda *xs: function(jnp, *xs))
    for _ in range(3):
        x, w = leaves(X, W)
        total = lambda outputs: sum((2.0 - i) * outputs[i].sum() for i in used)
        found = torch.autograd.grad(total(f(x, w)), (x, w))
        agree(found, torch.autograd.grad(total(function(torch, x, w)), (x, w)))
    assert ("gradient" in ways(f)) == (used == (0,))


def counted(function):
    """The function, and a list that grows whenever it is executed."""
    seen = []

    def counting(*xs):
        jax.debug.callback(lambda: seen.append(1))
        return function(*xs)

    return counting, seen


def test_the_function_runs_once():
    function, seen = counted(lambda *xs: loss(jnp, *xs))
    f = jax2torch(function)
    f(*leaves(X, W)).backward()
    jax.effects_barrier()
    assert (ways(f), len(seen)) == ("gradient", 1)


# Where the gradient is infinite or undefined, so are its multiples, as in torch.


@pytest.mark.parametrize("cotangent", [0.0, -2.0])
def test_an_infinite_gradient(cotangent):
    """Of the square root at zero; a complex one has a part that is finite."""

    def function(xp, x):
        return xp.sqrt(x * x * x).sum() + xp.sqrt(xp.abs(x)).sum()

    f = jax2torch(lambda x: function(jnp, x))
    (x,) = leaves(np.array([0.0, 1.0, 4.0], "float32"))
    (found,) = torch.autograd.grad(f(x), x, torch.tensor(cotangent))
    (expected,) = torch.autograd.grad(function(torch, x), x, torch.tensor(cotangent))
    assert ways(f) == "gradient"
    agree(found[1:], expected[1:])
    # torch has 0 for the derivative of |x| at 0, JAX has 1: infinite or undefined either way.
    assert not found[0].isfinite()
    assert not expected[0].isfinite()


def test_parts_of_a_complex_gradient_stay_apart():
    """Infinity times a real number has no imaginary part, but (inf + 0j) * (2 + 0j) has."""
    f = jax2torch(lambda z: jnp.sqrt(z.real).sum() + jnp.cos(z.imag).sum())
    (z,) = leaves(np.array([0.3j, 1 - 2j], "complex64"))
    (found,) = torch.autograd.grad(f(z), z, torch.tensor(-2.0))
    assert ways(f) == "gradient"
    agree(found.real, torch.tensor([-float("inf"), -1.0]))
    agree(found.imag, 2 * z.detach().imag.sin())


def test_complex_inputs_of_a_real_loss():
    def function(xp, z):
        y = xp.sin(z) * z + 1j * z.conj()
        return (y * y.conj()).real.mean()

    f = jax2torch(lambda z: function(jnp, z))
    (z,) = leaves(Z)
    grad = lambda y: torch.autograd.grad(y, z, torch.tensor(-1.7))[0]
    agree(grad(f(z)), grad(function(torch, z)), rtol=1e-3, atol=1e-4)
    assert ways(f) == "gradient"


# Where it would not be exact, another way is taken.


def test_complex_result():
    """It is linear in two cotangents, 1 and i."""
    f = jax2torch(lambda z: ((z * z).sum().real) + 1j * z.imag.sum())
    (z,) = leaves(Z)
    given = torch.tensor(1 - 2j)
    (expected,) = torch.autograd.grad((z * z).sum().real + 1j * z.imag.sum(), z, given)
    agree(torch.autograd.grad(f(z), z, given)[0], expected)
    assert "gradient" not in ways(f)


def clipped(wrap):
    """A function whose backward pass clips its cotangent, hidden inside of another."""

    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))
    return lambda x: wrap(identity)(x * x).sum()


HIDING = {
    "plainly": lambda f: f,
    "in a jitted function": jax.jit,
    "in a checkpoint": jax.checkpoint,
    "in a loop": lambda f: lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, length=1)[0],
    "in a branch": lambda f: lambda x: jax.lax.cond(x.sum() > -100, f, lambda x: x, x),
}


@pytest.mark.parametrize("wrap", HIDING.values(), ids=HIDING)
def test_a_derivative_that_is_not_linear(wrap):
    """Clipping 3 to 1 is not clipping 1 to 1, times 3: gradients are clipped by custom_vjp."""
    f = jax2torch(clipped(wrap))
    (x,) = leaves(X)
    (found,) = torch.autograd.grad(f(x), x, torch.tensor(3.0))
    agree(found, 2 * x.detach())
    assert "gradient" not in ways(f)


def test_a_scaled_loss_keeps_small_gradients_of_16_bits():
    """What a loss scale is for: 1e-9 is zero in float16, 65536 times that is not."""
    narrow = lambda x: x.astype(jnp.float16) * jnp.float16(1e-4)
    f = jax2torch(lambda x: narrow(x).sum().astype(jnp.float32) * 1e-5)
    (x,) = leaves(X)
    (found,) = torch.autograd.grad(f(x), x, torch.tensor(2.0**16))
    assert "gradient" not in ways(f)
    agree(found, torch.full_like(found, 2.0**16 * 1e-9), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_of_16_bits(dtype):
    f = jax2torch(lambda x: (x.astype(jnp.float32) * 1e-9).sum())
    x = torch.tensor(X).to(dtype).requires_grad_()
    (found,) = torch.autograd.grad(f(x), x, torch.tensor(2.0**16))
    assert "gradient" not in ways(f)
    agree(found, torch.full_like(found, 2.0**16 * 1e-9))


def test_a_wide_cotangent_of_a_narrow_gradient():
    """The product is taken in the wider dtype: 1e-30 * 1e40 is within float32, 1e40 is not."""
    f = jax2torch(lambda x: (x * 1e-30).astype("float64").sum(), x64=True)
    (x,) = leaves(X)
    (found,) = torch.autograd.grad(f(x), x, torch.tensor(1e40, dtype=torch.float64))
    assert ways(f) == "gradient"
    agree(found, torch.full_like(found, 1e10))


def test_indices_outside_of_64_bit_mode():
    def function(x, i):
        return (jnp.sin(x[i]) * x[i]).sum(), i[::-1]

    f = jax2torch(function)
    (x,) = leaves(X[:, 0])
    i = torch.tensor([4, 0, 4, 1])
    y, flipped = f(x, i)
    agree(flipped, i.flip(0))
    expected = torch.autograd.grad(-3 * (x[i].sin() * x[i]).sum(), x)
    agree(torch.autograd.grad(-3 * y, x), expected)
    assert ways(f) == "gradient"


def test_threads():
    f = jax2torch(lambda *xs: loss(jnp, *xs))
    expected = torch.autograd.grad(loss(torch, *(points := leaves(X, W))), points)

    def once(scale):
        x, w = leaves(X, W)
        return scale, torch.autograd.grad(scale * f(x, w), (x, w))

    with ThreadPoolExecutor(4) as pool:
        for scale, found in pool.map(once, [1.0, -2.0, 0.5] * 8):
            agree(found, tuple(scale * g for g in expected))
    assert ways(f) == "gradient"


def test_a_function_is_linearized_once(monkeypatch):
    """The trace that tells what saving would cost is a part of the program that is compiled."""
    linearize, count = jax.vjp, []
    monkeypatch.setattr(
        jax, "vjp", lambda *xs, **options: count.append(1) or linearize(*xs, **options)
    )
    f = jax2torch(lambda *xs: loss(jnp, *xs))
    x, w = leaves(X, W)
    found = torch.autograd.grad(f(x, w), (x, w))
    agree(found, torch.autograd.grad(loss(torch, x, w), (x, w)))
    assert ways(f) == "gradient"
    assert len(count) == 1
