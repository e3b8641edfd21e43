"""Functions on NumPy arrays with noise: keys, independence, and unbiased gradients."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import grad, jvp, vmap  # noqa: E402

from bridge import numpy2torch  # noqa: E402
from bridge.rules import SPSA, FiniteDifference, Jacobian, Jvp, ParameterShift, Vjp  # noqa: E402

X = (0.3, 0.8)
SAMPLES = 800


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(21)


def leaf(x=X):
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def noisy(x, *, rng):
    return np.cos(x).sum() + 0.3 * rng.normal()


def key(*numbers):
    return torch.tensor(numbers)


def assert_mean(samples, expected):
    """The mean is within 5 standard errors, which are small enough to tell."""
    samples = torch.stack(samples).detach().reshape(len(samples), -1)
    expected = torch.as_tensor(expected, dtype=samples.dtype).detach().reshape(-1)
    error = samples.std(0) / len(samples) ** 0.5
    assert (samples.mean(0) - expected).abs().le(5 * error + 1e-9).all()


def gradients_of_square(f, x):
    return [torch.autograd.grad(f(x) ** 2, x)[0] for _ in range(SAMPLES)]


def gradient_of_square(x):
    return -2 * x.cos().sum() * x.sin()


NOISY_RULES = [
    ParameterShift(),
    FiniteDifference(h=0.1),
    FiniteDifference(h=0.1, strategy="forward"),
    FiniteDifference(h=0.1, strategy="backward"),
    SPSA(h=0.1),
]


# Keys.


@pytest.mark.parametrize("vectorized", [False, True])
def test_the_same_key_gives_the_same_numbers(vectorized):
    def fn(x, *, rng):
        return np.cos(x).sum(-1) + rng.normal(size=x.shape[:-1])

    f = numpy2torch(fn, gradient=ParameterShift(), vectorized=vectorized)
    rows = [
        (f(x, rng=k), *torch.autograd.grad(f(x, rng=k), x))
        for x, k in [(leaf(), key(1, 2)), (leaf(), key(1, 2)), (leaf(), key(1, 3))]
    ]
    assert rows[0][0] == rows[1][0] != rows[2][0]
    assert rows[0][1].tolist() == rows[1][1].tolist()
    assert (rows[0][1] != rows[2][1]).all()


@pytest.mark.parametrize("rule", [ParameterShift(), SPSA()])
def test_examples_draw_what_they_would_alone(rule):
    f, xs = numpy2torch(noisy, gradient=rule), leaf(np.arange(8.0).reshape(4, 2)).detach()
    keys = torch.arange(8).reshape(4, 2)
    for g in (f, grad(f, argnums=0)):
        batch = vmap(lambda x, k, g=g: g(x, rng=k))(xs, keys)
        alone = [g(x, rng=k) for x, k in zip(xs, keys, strict=True)]
        torch.testing.assert_close(batch, torch.stack(alone), rtol=0, atol=1e-12)
    noise = vmap(lambda x, k: f(x, rng=k))(xs, keys) - xs.cos().sum(1)
    assert len({*noise.tolist()}) == 4


def test_without_a_key_the_generator_of_torch_is_followed():
    f, x = numpy2torch(noisy, gradient=ParameterShift()), leaf()
    rows = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        y, again = f(x), f(x)
        assert y != again
        rows.append([y.item(), again.item(), *torch.autograd.grad(y, x)[0].tolist()])
    assert rows[0] == rows[1]
    assert not {*rows[0]} & {*rows[2]}


def test_randomness_of_vmap():
    f, xs = numpy2torch(noisy), torch.zeros(3, 2)
    assert len({*vmap(f, randomness="same")(xs).tolist()}) == 1
    assert len({*vmap(f, randomness="different")(xs).tolist()}) == 3
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(f)(xs)


def test_a_key_reaches_compiled_programs():
    torch.compiler.reset()
    f = numpy2torch(noisy, out=np.empty(()))
    compiled = torch.compile(lambda x, k: f(x, rng=k), fullgraph=True)
    assert compiled(leaf(), key(4, 5)) == f(leaf(), rng=key(4, 5))
    assert compiled(leaf(), key(4, 6)) != f(leaf(), rng=key(4, 5))


# Independence.


def test_all_points_have_noise_of_their_own():
    drawn = []

    def fn(x, *, rng):
        drawn.append(rng.normal())
        return drawn[-1] + x.sum()

    x = leaf()
    for rule in (ParameterShift(), FiniteDifference(strategy="forward"), SPSA(3)):
        drawn.clear()
        f = numpy2torch(fn, gradient=rule)
        (g,) = torch.autograd.grad(f(x, rng=key(7)), x, create_graph=True)
        assert len({*drawn}) == len(drawn) > 4
        drawn.clear()
        torch.autograd.grad(g.sum(), x)
        assert len({*drawn}) == len(drawn) > 4


@pytest.mark.parametrize("rule", NOISY_RULES, ids=str)
def test_the_gradient_of_a_square_is_unbiased(rule):
    x = leaf()
    assert_mean(gradients_of_square(numpy2torch(noisy, gradient=rule), x), gradient_of_square(x))


def test_the_gradient_of_a_square_is_unbiased_over_keys():
    f, x = numpy2torch(noisy, gradient=ParameterShift()), leaf()
    samples = [torch.autograd.grad(f(x, rng=key(3, n)) ** 2, x)[0] for n in range(SAMPLES)]
    assert_mean(samples, gradient_of_square(x))


def test_common_noise_would_be_noticed():
    """That a shifted point shares the noise of the value is what these tests are to find."""
    random, drawn, calls = np.random.default_rng(6), [], []

    def fn(x):
        if not len(calls) % 5:  # the value, before the four points of its gradient
            drawn.append(random.normal())
        calls.append(x)
        return np.cos(x).sum() + (drawn[-1] if len(calls) % 5 in (1, 2) else 0.0)

    x = leaf()
    samples = gradients_of_square(numpy2torch(fn, gradient=ParameterShift()), x)
    with pytest.raises(AssertionError):
        assert_mean(samples, gradient_of_square(x))


def test_products_of_a_value_and_its_derivatives_are_unbiased():
    f, x = numpy2torch(noisy, gradient=ParameterShift()), leaf(0.3)
    samples = []
    for _ in range(SAMPLES):
        y = f(x)
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        (h,) = torch.autograd.grad(g, x)
        samples.append(torch.stack([y * g, y * h, g * h]))
    c, s = x.cos(), x.sin()
    assert_mean(samples, torch.stack([-c * s, -c * c, s * c]))


def test_tangents_are_independent_of_the_value():
    f, x = numpy2torch(noisy, gradient=ParameterShift()), leaf(0.3).detach()
    samples = []
    for n in range(SAMPLES):
        y, t = jvp(lambda x, n=n: f(x, rng=key(n)), (x,), (torch.ones_like(x),))
        samples.append(y * t)
    assert_mean(samples, -x.cos() * x.sin())


def test_outputs_at_shifted_points_have_noise_of_their_own():
    rule = Vjp(lambda p, c, y: c * y, then=FiniteDifference(h=0.5))
    f, x, samples = numpy2torch(noisy, gradient=rule), leaf(0.3), []
    for _ in range(SAMPLES):
        y = f(x)
        (g,) = torch.autograd.grad(y, x, create_graph=True)
        (h,) = torch.autograd.grad(g, x)
        samples.append((y - x.cos()) * h)
    assert_mean(samples, 0.0)


# Rules that draw directions, and rules with generators.


def slopes(x, y):
    return x @ np.array([1.0, -2.0]) + y @ np.array([5.0, 3.0]) + 0.5 * x[0] * y[0]


def spsa_samples(rule, x, y):
    f = numpy2torch(slopes, gradient=rule)
    return [torch.cat(torch.autograd.grad(f(x, y), (x, y))) for _ in range(SAMPLES)]


@pytest.mark.parametrize(
    "rule",
    [
        SPSA(),
        SPSA(num_directions=4, h=0.3, seed=2),
        {"x": SPSA(seed=1), "y": SPSA(seed=2)},
        {"x": SPSA(), "y": ParameterShift()},
        {"x": SPSA(seed=1), "y": SPSA(seed=1)},
        {"x": SPSA(1), "y": SPSA(4)},
        {"x": SPSA(h=0.1), "y": SPSA(h=0.3)},
    ],
    ids=str,
)
def test_random_directions_are_unbiased(rule):
    x, y = leaf([0.4, -0.2]), leaf([0.7, 0.1])
    # The shift of an angle is pi / 2, which makes the difference of a line pi / 2 times its slope.
    turn = np.pi / 2 if isinstance(rule, dict) and rule["y"] == ParameterShift() else 1.0
    assert_mean(spsa_samples(rule, x, y), [1 + 0.35, -2.0, (5.0 + 0.2) * turn, 3.0 * turn])


def test_the_variance_of_random_directions_is_that_of_the_docstring():
    f, x = (
        numpy2torch(lambda x: x @ np.array([1.0, 2.0, 4.0]), gradient=SPSA(2, seed=3)),
        leaf([0.0] * 3),
    )
    samples = torch.stack([torch.autograd.grad(f(x), x)[0] for _ in range(2 * SAMPLES)])
    expected = (21 - torch.tensor([1.0, 4.0, 16.0])) / 2
    torch.testing.assert_close(samples.var(0).float(), expected, rtol=0.15, atol=0)


def test_seeds_repeat_the_row_of_gradients_not_one_gradient():
    rows = []
    for _ in range(2):
        f, x = numpy2torch(lambda x: x.sum(), gradient=SPSA(seed=7)), leaf([0.0] * 8)
        rows.append([tuple(torch.autograd.grad(f(x), x)[0].tolist()) for _ in range(4)])
    assert rows[0] == rows[1]
    assert len({*rows[0]}) == 4


def test_second_derivatives_by_random_directions_are_unbiased():
    f = numpy2torch(lambda x: 2 * x[0] ** 2 + 3 * x[0] * x[1] - x[1] ** 2, gradient=SPSA(seed=4))
    x, v, samples = leaf(), torch.tensor([1.0, 0.5], dtype=torch.float64), []
    for _ in range(SAMPLES):
        (g,) = torch.autograd.grad(f(x), x, create_graph=True)
        samples.append(torch.autograd.grad(g, x, v)[0])
    assert_mean(samples, [5.5, 2.0])


@pytest.mark.parametrize(
    "rule",
    [
        Vjp(lambda p, c, y, *, rng: c * (rng.normal() - np.sin(p[0]))),
        Jvp(lambda p, t, *, rng: t[0] * (rng.normal() - np.sin(p[0]))),
        Jacobian(lambda x, *, rng: np.diag(rng.normal() - np.sin(x))),
    ],
    ids=["vjp", "jvp", "jacobian"],
)
def test_own_derivatives_get_generators_of_their_own(rule):
    def fn(x, *, rng):
        return np.cos(x) + rng.normal()

    f, x = numpy2torch(fn, gradient=rule), leaf()
    y = f(x, rng=key(8))
    first, again = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert first.tolist() == again.tolist()
    noise, noise_of_value = first + x.sin(), y - x.cos()
    assert noise.abs().min() > 1e-6
    assert not torch.isclose(noise, noise_of_value).any()


def test_a_key_may_come_first():
    f = numpy2torch(lambda *, x, rng: np.sin(x), gradient=Jvp(lambda p, t: np.cos(p[0]) * t[0]))
    x = leaf()
    f(rng=key(1), x=x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
