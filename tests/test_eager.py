"""`jit=False`: functions whose Python looks at values."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above

X = np.array([0.3, -1.2, 0.8], "float32")


def leaf(sign=1.0, dtype=torch.float32):
    return (sign * torch.tensor(X, dtype=dtype)).requires_grad_()


@jax2torch(jit=False)
def branching(x):
    """Two formulas, told apart by the value of the first entry."""
    return jnp.sin(x) * x if x[0] > 0 else x**3


def native(x):
    return torch.sin(x) * x if x[0] > 0 else x**3


both_branches = pytest.mark.parametrize("sign", [1.0, -1.0])


def test_the_same_function_cannot_be_traced():
    f = jax2torch(branching.__wrapped__)
    with pytest.raises(jax.errors.TracerBoolConversionError, match="traced array"):
        f(leaf())


@both_branches
def test_values(sign):
    torch.testing.assert_close(branching(leaf(sign)), native(leaf(sign)))


@both_branches
def test_gradient(sign):
    x, y = leaf(sign), leaf(sign)
    branching(x).sum().backward()
    native(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@both_branches
def test_second_order(sign):
    x = leaf(sign)

    def second(f):
        (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        return torch.autograd.grad((g**2).sum(), x)

    torch.testing.assert_close(second(branching), second(native))


@both_branches
def test_gradcheck(sign):
    x = leaf(sign, torch.float64)
    assert torch.autograd.gradcheck(branching, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(branching, x)


@both_branches
def test_forward_mode(sign):
    x, v = leaf(sign).detach(), torch.tensor([1.0, 2.0, -3.0])
    torch.testing.assert_close(
        torch.func.jvp(branching, (x,), (v,)), torch.func.jvp(native, (x,), (v,))
    )


def test_hessian_without_vmap():
    x = leaf().detach()
    hessian = lambda f: torch.autograd.functional.hessian(lambda x: f(x).sum(), x)
    torch.testing.assert_close(hessian(branching), hessian(native))


def test_complex_gradient():
    f = jax2torch(lambda z: (z * z * jnp.conj(z) if z[0].real > 0 else z).sum(), jit=False)
    z = torch.tensor([0.3 + 1j, -2 + 0.5j], requires_grad=True)
    y = f(z)
    (expected,) = torch.autograd.grad((z * z * z.conj()).sum(), z, torch.tensor(1 - 2j))
    torch.testing.assert_close(torch.autograd.grad(y, z, torch.tensor(1 - 2j))[0], expected)


def test_values_of_numbers():
    """Python numbers arrive as values: loops over them need no static_argnames."""

    def power(x, n):
        for _ in range(n):
            x = x * 2
        return x

    f = jax2torch(power, jit=False)
    torch.testing.assert_close(f(torch.ones(2), 3), torch.full((2,), 8.0))
    x = leaf()
    f(x, 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 4.0))


def test_shape_that_depends_on_values():
    f = jax2torch(lambda x: x[x > 0] ** 2, jit=False)
    x = leaf()
    y = f(x)
    assert y.shape == (2,)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(x > 0, 2 * x, 0.0).detach())


def test_structure_that_depends_on_values():
    f = jax2torch(lambda x: {"first": x} if x[0] > 0 else [x, 2 * x], jit=False)
    assert list(f(leaf())) == ["first"]
    assert [y.tolist() for y in f(-leaf())] == [(-leaf()).tolist(), (-2 * leaf()).tolist()]
    assert list(f(leaf())) == ["first"]


def test_function_runs_at_every_call():
    seen = []
    f = jax2torch(lambda x: seen.append(x) or x, jit=False)
    for _ in range(3):
        f(torch.ones(2))
    assert len(seen) == 3


def test_many_calls_do_not_warn_of_traces():
    """Warnings are errors here: new shapes cost nothing extra."""
    f = jax2torch(lambda x: x.sum(), jit=False)
    for n in range(1, 20):
        assert f(torch.ones(n)).item() == n


def test_numpy_inside():
    """Values can leave JAX, in a function that is not differentiated."""
    f = jax2torch(lambda x: jnp.asarray(np.sort(np.asarray(x))), jit=False)
    torch.testing.assert_close(f(torch.tensor(X)), torch.tensor(np.sort(X)))


class OwnError(Exception):
    pass


def failing(x):
    raise OwnError("these values", 7)


@pytest.mark.parametrize("wanted", [True, False])
def test_exception_keeps_type_and_text(wanted):
    with pytest.raises(OwnError, match="these values") as caught:
        jax2torch(failing, jit=False)(torch.ones(2, requires_grad=wanted))
    assert caught.value.args == ("these values", 7)
    assert caught.traceback[-1].name == "failing"


def test_exception_that_depends_on_values():
    def positive(x):
        if not (x > 0).all():
            raise OwnError(f"negative: {float(x.min()):.1f}")
        return x

    f = jax2torch(positive, jit=False)
    f(torch.ones(2))
    with pytest.raises(OwnError, match=r"negative: -1\.2"):
        f(leaf())


def test_vmap_of_a_branch_is_the_error_of_jax():
    with pytest.raises(jax.errors.TracerBoolConversionError, match="traced array"):
        torch.func.vmap(branching)(torch.stack([leaf(), -leaf()]))


def test_vmap_of_what_jax_can_batch():
    f = jax2torch(lambda x: jnp.sin(x) * x.sum(), jit=False)
    rows = torch.stack([leaf(), -leaf()]).detach()
    expected = torch.func.vmap(lambda x: torch.sin(x) * x.sum())(rows)
    torch.testing.assert_close(torch.func.vmap(f)(rows), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_argument(dtype):
    f = jax2torch(lambda x: jnp.sin(x) + jnp.zeros(3), jit=False)
    x = leaf(dtype=dtype)
    y = f(x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (dtype, dtype)


def test_integer_argument_outside_of_64_bit_mode():
    f = jax2torch(lambda x, i: x[i] * x[i] if i.sum() > 2 else x[i], jit=False)
    x = leaf()
    f(x, torch.tensor([2, 0, 2])).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach() * torch.tensor([1.0, 0.0, 2.0]))


RESULTS = {
    "input": lambda x: x,
    "input twice": lambda x: (x, x),
    "view": lambda x: (x[:], x.reshape(3)),
    "result twice": lambda x: (lambda y: (y, y))(jnp.sin(x)),
}


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results_share_no_memory(function):
    x = torch.tensor(X)
    results = jax2torch(function, jit=False)(x)
    results = results if isinstance(results, tuple) else (results,)
    addresses = [y.data_ptr() for y in (x, *results)]
    assert len(set(addresses)) == len(addresses)


def test_closed_over_constant_cannot_be_overwritten():
    constant = jnp.arange(3.0)
    f = jax2torch(lambda x: constant if x[0] > 0 else x, jit=False)
    f(leaf()).fill_(7)
    torch.testing.assert_close(f(leaf()), torch.arange(3.0))


def test_argument_kept_by_the_function_is_not_overwritten():
    """The function may keep what it is given; torch may write into its tensor."""
    kept = []
    f = jax2torch(lambda x: kept.append(x) or x * 2, jit=False)
    x = torch.ones(3)
    f(x)
    x.fill_(7)
    assert kept[0].tolist() == [1, 1, 1]
