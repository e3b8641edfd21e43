"""Transformations of functions of torch that XLA compiles, their options, and what is refused."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from bridge import NoRuleError, NoValuesError, OptionError, register_lowering, torch2jax
from bridge._lowering import user
from bridge._lowering.jax.operators import lowerings
from tests.torch_functions import Clipped, Reversal, StraightThrough

X = np.array([0.3, -1.2, 0.7])
A = np.random.default_rng(0).normal(size=(3, 3))


pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def rules(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(user, "USER_LOWERINGS", {})
    monkeypatch.setattr(lowerings, "USER_LOWERINGS", user.USER_LOWERINGS)


def xla(function):
    return torch2jax(function, lower="xla")


def in_torch(x):
    return torch.sin(x) * (torch.from_numpy(A).to(x.dtype) @ x) + x.abs() ** 2


def in_jax(x):
    return jnp.sin(x) * (jnp.asarray(A, x.dtype) @ x) + jnp.abs(x) ** 2


TRANSFORMS = {
    "jit": jax.jit,
    "vmap": lambda f: lambda x: jax.vmap(f, 1, 1)(jnp.stack([x, 2 * x], 1)),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x * x,))[1],
    "jacrev": jax.jacrev,
    "hessian": jax.hessian,
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.jacrev(f))),
    "gradients of examples": lambda f: (
        lambda x: jax.vmap(jax.grad(lambda x: f(x).sum()))(jnp.stack([x, 2 * x]))
    ),
    "gradient of examples": lambda f: (
        lambda x: jax.grad(lambda x: (jax.vmap(f)(jnp.stack([x, 2 * x])) ** 2).sum())(x)
    ),
    "scan": lambda f: lambda x: lax.scan(lambda c, t: (f(c * t), f(c)), x, X)[1],
    "gradient of a scan": lambda f: jax.grad(
        lambda x: lax.scan(lambda c, _: (f(c) / 3, None), x, length=4)[0].sum()
    ),
    "while_loop": lambda f: (
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1])), (0, x))[1]
    ),
    "checkpoint": lambda f: jax.grad(lambda x: jax.checkpoint(f)(x).sum()),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transformations_equal_native(transform):
    mine, native = (transform(f)(jnp.asarray(X)) for f in (xla(in_torch), in_jax))
    np.testing.assert_allclose(mine, native, rtol=1e-10)


@pytest.mark.parametrize("name", ["jacrev", "jvp", "vmap"])
def test_complex_transformations_equal_native(name):
    z = jnp.asarray(X + 1j * X[::-1])
    if name == "jacrev":
        mine, native = (jax.vjp(f, z)[1](z * 2j)[0] for f in (xla(in_torch), in_jax))
    else:
        mine, native = (TRANSFORMS[name](f)(z) for f in (xla(in_torch), in_jax))
    np.testing.assert_allclose(mine, native, rtol=1e-10)


STEP = (lambda x: StraightThrough.apply(x, torch.ones((), dtype=x.dtype)), lambda x: jnp.ones(3))
CUSTOM = {
    "straight-through": STEP,
    "reversal": (lambda x: Reversal.apply(x.sin(), 3.0), lambda x: -3 * jnp.cos(x)),
    "clipped": (lambda x: Clipped.apply(x**2), lambda x: jnp.clip(1.0, -0.5, 0.5) * 2 * x),
}


@pytest.mark.parametrize(("function", "slope"), CUSTOM.values(), ids=CUSTOM)
def test_custom_gradients_hold(function, slope):
    x, f = jnp.asarray(X), xla(function)
    gradient = jax.grad(lambda x: f(x).sum())
    np.testing.assert_allclose(jax.jit(gradient)(x), slope(x), rtol=1e-12)
    rows = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(gradient)(rows), jax.vmap(slope)(rows), rtol=1e-12)
    batched = jax.grad(lambda rows: jax.vmap(f)(rows).sum())
    np.testing.assert_allclose(batched(rows), jax.vmap(slope)(rows), rtol=1e-12)


def unrecorded(x):
    with torch.no_grad():
        twice = x * 2
    return twice * x


@pytest.mark.parametrize(
    ("function", "slope"),
    [(lambda x: x.detach() * x, lambda x: x), (unrecorded, lambda x: 2 * x)],
    ids=["detach", "no_grad"],
)
def test_gradients_that_are_constant_have_gradients(function, slope):
    """No cotangent flows into what computes them, and torch's graph has no array for it."""
    x, f = jnp.asarray(X), xla(function)
    gradient = jax.grad(lambda x: f(x).sum())
    np.testing.assert_allclose(gradient(x), slope(X), rtol=1e-12)
    second = jax.grad(lambda x: (x**2 * gradient(x)).sum())
    np.testing.assert_allclose(jax.jit(second)(x), 2 * X * slope(X), rtol=1e-12)
    np.testing.assert_array_equal(jax.hessian(lambda x: f(x).sum())(x), np.zeros((3, 3)))
    rows = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(second)(rows)[1], 8 * X * slope(X), rtol=1e-12)


def test_64_bits_inside_of_32_bit_mode():
    with jax.enable_x64(False):
        f = jax.jit(xla(lambda x: (x.double().sum().float(), (x.argmax() * 2**40 >> 40).int())))
        x = jnp.asarray([1.0, 2.0**-30, -1.0], "float32")
        total, place = f(x)
        assert total == 2.0**-30  # lost where the sum is of single precision
        assert place == 0
        assert (total.dtype, place.dtype) == ("float32", "int32")


def test_integers_of_64_bits_are_refused_in_32_bit_mode():
    with jax.enable_x64(False), pytest.raises(TypeError, match=r"result 0 of argmax is int64\[\]"):
        xla(torch.argmax)(jnp.ones(3))


KEY = jax.random.key(7)
ONES = np.ones(64)


def dropped(x):
    return torch.nn.functional.dropout(x, 0.25) * x


def test_forward_and_backward_draw_the_same():
    f = lambda x: xla(dropped)(x, rng=KEY)
    value, pull = jax.vjp(f, ONES)
    kept = np.asarray(value) != 0
    assert 30 < kept.sum() < 60
    np.testing.assert_allclose(pull(ONES)[0], np.where(kept, 8 / 3, 0), rtol=1e-12)
    np.testing.assert_allclose(jax.jvp(f, (ONES,), (ONES,))[1], np.where(kept, 8 / 3, 0))
    np.testing.assert_allclose(jax.vmap(f)(jnp.stack([ONES, ONES])), [value, value])
    second = jax.grad(lambda x: jax.grad(lambda x: f(x).sum())(x).sum())(ONES)
    np.testing.assert_allclose(second, np.where(kept, 8 / 3, 0), rtol=1e-12)
    other = xla(dropped)(ONES, rng=jax.random.key(8))
    assert ((np.asarray(other) != 0) != kept).any()


def test_numbers_drawn_one_after_the_other_differ():
    first, second = xla(lambda x: (torch.rand_like(x), torch.rand_like(x)))(ONES, rng=KEY)
    assert (first != second).all()


DRAWS = {
    "rand": (lambda: torch.rand(4000), 0.5, 1 / 12),
    "randn": (lambda: torch.randn(4000), 0.0, 1.0),
    "normal": (lambda: torch.normal(2.0, torch.full((4000,), 3.0)), 2.0, 9.0),
    "normal in place": (lambda: torch.empty(4000).normal_(5.0, 0.5), 5.0, 0.25),
    "bernoulli": (lambda: torch.bernoulli(torch.full((4000,), 0.3)), 0.3, 0.21),
    "bernoulli in place": (lambda: torch.empty(4000).bernoulli_(0.3), 0.3, 0.21),
    "randint": (lambda: torch.randint(2, 8, (4000,)).float(), 4.5, 35 / 12),
    "uniform": (lambda: torch.empty(4000).uniform_(-1, 3), 1.0, 16 / 12),
    "exponential": (lambda: torch.empty(4000).exponential_(2.0), 0.5, 0.25),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([1.0, 3.0]), 4000, replacement=True).float(),
        *(0.75, 0.1875),
    ),
    "permutation": (lambda: torch.randperm(4000).float() / 4000, 0.5, 1 / 12),
}


@pytest.mark.parametrize(("draw", "mean", "variance"), DRAWS.values(), ids=DRAWS)
def test_random_numbers_have_their_distribution(draw, mean, variance):
    found = np.asarray(xla(lambda x: x + draw())(jnp.zeros((), "float32"), rng=KEY))
    assert abs(found.mean() - mean) < 5 * (variance / 4000) ** 0.5
    np.testing.assert_allclose(found.var(), variance, rtol=0.15)


def test_a_key_is_asked_for_attention_with_dropout_alone():
    q = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 5, 4)))
    attention = torch.nn.functional.scaled_dot_product_attention
    f = xla(lambda q: attention(q, q, q))
    native = jax.nn.softmax(q @ jnp.swapaxes(q, -1, -2) / 2) @ q
    np.testing.assert_allclose(f(q), native, rtol=1e-9)
    some = xla(lambda q: attention(q, q, q, dropout_p=0.5))
    assert not np.allclose(some(q, rng=KEY), native)


def test_a_module_trains_as_in_torch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3, padding=1),
        torch.nn.BatchNorm1d(4),
        torch.nn.GELU(),
        torch.nn.Flatten(),
        torch.nn.Linear(20, 3),
    ).double()
    there = torch2jax(net, lower="xla")
    x, labels = torch.randn(6, 2, 5, dtype=torch.float64), torch.randint(0, 3, (6,))

    @jax.jit
    def step(params, buffers, x, labels):
        def loss(params):
            scores, new = there.apply(params, buffers, x)
            return -jax.nn.log_softmax(scores)[jnp.arange(6), labels].mean(), new

        (value, buffers), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes), buffers

    params, buffers = there.params, there.buffers
    for _ in range(2):
        value, params, buffers = step(params, buffers, x.numpy(), labels.numpy())
    jax.block_until_ready(value)  # for it reads the memory that the optimizer of torch writes
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(net(x), labels)
        expected.backward()
        optimizer.step()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-10)
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(params[name], parameter.detach(), rtol=1e-8, atol=1e-12)
    for name, buffer in net.named_buffers():
        np.testing.assert_allclose(buffers[name], buffer, rtol=1e-10)


def bessel(x):
    return torch.special.bessel_j0(x)


def test_a_missing_operator_is_named():
    with pytest.raises(NoRuleError) as caught:
        xla(bessel)(jnp.asarray(X))
    assert str(caught.value) == (
        "the operator aten.special_bessel_j0.default of bessel cannot be compiled for want of "
        "prims.bessel_j0.default, which torch makes it of. Say how it is computed, with "
        '@bridge.register_lowering("aten.special_bessel_j0.default") above a function of JAX '
        'arrays that takes what the operator takes, or let torch compute with lower="ffi".'
    )


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_is_used():
    @register_lowering("aten.special_bessel_j0.default")
    def j0(x):
        return jax.scipy.special.bessel_jn(x, v=0)[0]

    expected = torch.special.bessel_j0(torch.tensor(X))
    np.testing.assert_allclose(jax.jit(xla(bessel))(jnp.asarray(X)), expected, rtol=1e-6)


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_takes_precedence():
    register_lowering("aten.sin.default")(lambda x: x * 5)
    np.testing.assert_allclose(xla(torch.sin)(jnp.asarray(X)), 5 * X)


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_of_another_shape_is_refused():
    register_lowering("aten.sin.default")(lambda x: x[:2])
    message = (
        r"the operator aten.sin.default of sin has a result of shape \[2\], and torch says that "
        r"it is float64\[3\]."
    )
    with pytest.raises(TypeError, match=message):
        xla(torch.sin)(jnp.asarray(X))


@pytest.mark.parametrize("name", ["aten.sin", "sin", "mine::scale", "aten..default"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(OptionError, match=r"names no operator\. Write its namespace, name"):
        register_lowering(name)


@pytest.mark.usefixtures("rules")
def test_a_custom_operator_of_the_user():
    @torch.library.custom_op("bridge_lowering::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @double.register_fake
    def _(x):
        return torch.empty_like(x)

    double.register_autograd(lambda ctx, g: g * 7, setup_context=lambda ctx, inputs, output: None)
    f = xla(lambda x: double(x) + x)
    with pytest.raises(NoRuleError, match=r"operator bridge_lowering\.double\.default of <lambda>"):
        f(jnp.asarray(X))
    register_lowering("bridge_lowering.double.default")(lambda x: x + x)
    np.testing.assert_allclose(f(jnp.asarray(X)), 3 * X)
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(jnp.asarray(X)), [8, 8, 8])


def test_a_function_that_looks_at_values_is_refused():
    f = xla(lambda x: x if x[0] > 0 else -x)
    with pytest.raises(NoValuesError, match=r'nothing that lower="xla" could compile: rewrite it'):
        f(jnp.asarray(X))


def test_options_that_exclude_one_another():
    with pytest.raises(OptionError, match='lower="xla" compiles the graph of a function, and capt'):
        torch2jax(torch.sin, lower="xla", capture="never")
    with pytest.raises(OptionError, match="device='cpu' says where torch computes, and with lower"):
        torch2jax(torch.sin, lower="xla", device="cpu")
    with pytest.raises(OptionError, match='lower=\'c\' is neither "ffi" nor "xla"'):
        torch2jax(torch.sin, lower="c")


def test_an_operator_that_reads_memory_is_refused():
    f = xla(lambda x: torch.as_strided((x * 2).mT, (2, 2), (1, 2)))
    with pytest.raises(NoRuleError, match=r"as_strided.default reads the memory of a tensor of sh"):
        f(jnp.ones((3, 4)))


def test_indices_out_of_bounds_read_nan():
    f = xla(lambda x, n: (x[n], x.gather(0, n), torch.nn.functional.embedding(n, x[:, None])))
    n = jnp.array([1, 5, -7])
    for found in f(jnp.asarray(X), n):
        found = np.asarray(found).reshape(3)
        assert found[0] == X[1]
        assert np.isnan(found[1:]).all()
