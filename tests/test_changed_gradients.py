"""Gradients that torch.func passes over: of torch.no_grad, of hooks, of checkpoints."""

import numpy as np
import pytest

from bridge import NoRuleError, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

checkpoint = pytest.importorskip("torch.utils.checkpoint").checkpoint

from tests.torch_in_jax import modes  # noqa: E402

X = np.array([0.5, -1.2, 2.0], np.float32)
V = np.array([1.0, -0.5, 0.3], np.float32)


def held(x):
    with torch.no_grad():
        a = x.sin()
    return a * x, a


def hooked(x):
    y = x.sin()
    if y.requires_grad:
        y.register_hook(lambda g: 3 * g)
    return y * x, y


SLOPES = {
    "no_grad": (held, lambda x: np.sin(x), lambda x: 0 * x),
    "hook": (hooked, lambda x: 3 * np.cos(x) * x + np.sin(x), lambda x: 3 * np.cos(x)),
}


@modes
@pytest.mark.parametrize("name", SLOPES)
def test_tangents_are_those_of_the_gradient(name, options):
    fn, first, second = SLOPES[name]
    f = torch2jax(fn, **options)
    tangents = jax.jvp(f, (X,), (V,))[1]
    np.testing.assert_allclose(tangents[0], first(X) * V, rtol=1e-5)
    np.testing.assert_allclose(tangents[1], second(X) * V, rtol=1e-5)
    gradient = jax.grad(lambda x: f(x)[0] @ V + f(x)[1].sum())(X)
    np.testing.assert_allclose(gradient, first(X) * V + second(X), rtol=1e-5)


def test_tangents_through_a_hook_that_clips_are_refused():
    def clipped(x):
        y = x.sin()
        if y.requires_grad:
            y.register_hook(lambda g: g.clamp(-0.1, 0.1))
        return y * x

    with pytest.raises(NoRuleError, match="linear in the cotangent"):
        jax.jvp(torch2jax(clipped, capture="never"), (X,), (V,))


@modes
def test_batches_of_a_checkpoint(options):
    def fn(x):
        return checkpoint(lambda t: t.sin() * t, x, use_reentrant=False)

    f, xs = torch2jax(fn, **options), np.stack([X, 2 * X])
    slope = np.cos(xs) * xs + np.sin(xs)
    total = jax.grad(lambda xs: jax.vmap(f)(xs).sum())(xs)
    each = jax.vmap(jax.grad(lambda x: f(x).sum()))(xs)
    np.testing.assert_allclose(total, slope, rtol=1e-5)
    np.testing.assert_allclose(each, slope, rtol=1e-5)


@modes
def test_an_optimizer_and_a_profile_inside(options):
    def fn(x):
        with torch.profiler.record_function("descent"):
            w = x.detach().clone().requires_grad_()
            descent = torch.optim.SGD([w], lr=0.1, momentum=0.9)
            for _ in range(2):
                w.grad = torch.autograd.grad((w**2 * 0.5).sum(), w)[0]
                descent.step()
        return w.detach() + x

    f = torch2jax(fn, **options)
    np.testing.assert_allclose(f(X), X + 0.9 * X - 0.1 * (0.9 * X + 0.9 * X), rtol=1e-5)
    batch = jax.vmap(jax.grad(lambda x: (f(x) ** 2).sum()))(X[None])
    np.testing.assert_allclose(batch[0], 2 * f(X), rtol=1e-5)
