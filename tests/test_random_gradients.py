"""Random numbers that are drawn in a backward."""

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import Function  # noqa: E402

from bridge import NoRuleError  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -0.7, 1.2], dtype=DOUBLE)
ONE = torch.ones((), dtype=DOUBLE)
SEED, OTHER = torch.tensor([7]), torch.tensor([8])

pytestmark = pytest.mark.filterwarnings("ignore:.* cannot be captured as a graph")


class Noisy(Function):
    """Noise that is known when the cotangent is."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return g * torch.rand_like(g)


class Dropped(Function):
    """A mask, and noise on its gradient."""

    @staticmethod
    def forward(ctx, x):
        mask = (torch.rand_like(x) > 0.5).to(x)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0] + 1e-3 * torch.rand_like(g)


FUNCTIONS = {
    "graph": lambda x: Noisy.apply(x).sum(),
    "anew": lambda x: Noisy.apply(x).sum() if x.sum() > -9 else x.sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_seed_decides_the_gradient(name):
    f = op(lambda x, seed: FUNCTIONS[name](x), X, SEED, seed_argnum=1, capture="auto")
    gradient = f.derive("vjp", (0,), (0,))
    halves = f.derive("forward_backward", (0,), (0,))
    assert (halves is None) == (name == "graph")
    for seed in (SEED, OTHER) if halves else ():
        *_, number = halves.forward.call(X, seed)
        both = [halves.backward((0,)).call(X, seed, number, ONE)[0] for _ in range(2)]
        close(both, [gradient.call(X, seed, ONE)[0]] * 2)
    first, second, other = (gradient.call(X, s, ONE)[0] for s in (SEED, SEED, OTHER))
    close([first], [second])
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_a_seed_it_is_refused(name):
    f = op(FUNCTIONS[name], X, capture="auto")
    with pytest.raises(NoRuleError, match=r"draws random numbers in its gradient.* Pass a key"):
        f.derive("vjp", (0,), (0,))


def test_the_mask_of_a_gradient_is_that_of_the_value():
    f = op(lambda x, seed: Dropped.apply(x), X, SEED, seed_argnum=1)
    gradient = f.derive("vjp", (0,), (0,))
    for seed in range(5):
        mask = (f.call(X, torch.tensor([seed]))[0] / X).round()
        found = gradient.call(X, torch.tensor([seed]), torch.ones_like(X))[0]
        close([found.round(decimals=2)], [mask])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_calls_in_jax(name):
    jax = pytest.importorskip("jax")
    from bridge import torch2jax

    f = torch2jax(FUNCTIONS[name])
    x = jax.numpy.ones(3)
    slope = jax.grad(lambda x, key: f(x, rng=key))
    first, second, other = (jax.jit(slope)(x, jax.random.key(n)) for n in (0, 0, 1))
    assert first.tolist() == second.tolist() == slope(x, jax.random.key(0)).tolist()
    assert first.tolist() != other.tolist()
    with pytest.raises(NoRuleError, match="Pass a key"):
        jax.grad(f)(x)
