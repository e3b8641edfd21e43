"""The `jvp` that a user writes in an `autograd.Function`."""

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import Function  # noqa: E402

from bridge import NoRuleError  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -0.7, 1.2], dtype=DOUBLE)
V = torch.tensor([1.0, 0.5, -2.0], dtype=DOUBLE)
ONE = torch.ones((), dtype=DOUBLE)


class Step(Function):
    """Straight-through in reverse, constant forward; as written before torch 2."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g

    @staticmethod
    def jvp(ctx, t):
        return torch.zeros_like(t)


class Forward(Function):
    """A rule for tangents alone."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_forward(x)
        return x.sin()

    @staticmethod
    def jvp(ctx, t):
        return 7 * t * ctx.saved_tensors[0]


class Twofold(Function):
    """Another rule in each direction, by a context."""

    @staticmethod
    def forward(x, factor):
        return factor * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(inputs[0])
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0], None

    @staticmethod
    def jvp(ctx, t, _):
        return 5 * t * ctx.saved_tensors[0]


# The tangents along V at X.
TANGENTS = {
    "zeros": (lambda x: Step.apply(x) * x, X.round() * V),
    "jvp alone": (lambda x: Forward.apply(x * x), 14 * X**3 * V),
    "by a context": (lambda x: Twofold.apply(x, 2.0).sum(), (5 * V * X).sum()),
    "within more": (lambda x: Step.apply(x.sin()) + (x * x).cumsum(0), (2 * X * V).cumsum(0)),
}


@pytest.mark.parametrize(("f", "expected"), TANGENTS.values(), ids=TANGENTS)
def test_the_rule_of_the_user_wins(f, expected):
    close(op(f, X).derive("jvp", (0,)).call(X, V), [expected])


def test_gradients_stay_those_of_backward():
    f = op(lambda x: Twofold.apply(x, 2.0), X)
    close(f.derive("vjp", (0,), (0,)).call(X, V), [3 * V * X])


def test_gradients_are_refused_where_only_tangents_have_a_rule():
    with pytest.raises(NoRuleError, match="backward"):
        op(Forward.apply, X).derive("vjp", (0,), (0,))


def test_a_batch_of_tangents():
    many, moving = torch.stack([X, X.cos()]), torch.stack([V, V.sin()])
    f = op(lambda x: Forward.apply(x * x), X)
    expected = [14 * many**3 * moving]
    close(f.derive("vmap", (0,), 2).derive("jvp", (0,)).call(many, moving), expected)
    close(f.derive("jvp", (0,)).derive("vmap", (0, 0), 2).call(many, moving), expected)


def test_gradients_of_tangents():
    jvp = op(lambda x: Twofold.apply(x, 2.0), X).derive("jvp", (0,))
    close(jvp.derive("vjp", (0,), (0,)).call(X, V, X.cos()), [5 * V * X.cos()])


def test_tangents_of_gradients():
    gradient = op(lambda x: Twofold.apply(x, 2.0).sum(), X).derive("vjp", (0,), (0,))
    close(gradient.derive("jvp", (0,)).call(X, ONE, V), [3 * V])
    gradient = op(lambda x: (Step.apply(x) * x**3).sum(), X).derive("vjp", (0,), (0,))
    expected = 3 * X**2 * V + 6 * X * X.round() * V  # of x^3 + 3 x^2 step(x), with a flat step
    close(gradient.derive("jvp", (0,)).call(X, ONE, V), [expected])


@pytest.mark.parametrize("f", [Step.apply, lambda x: Twofold.apply(x, 2.0)])
def test_tangents_of_tangents_are_refused(f):
    """torch refuses the former and gives 0 for the latter."""
    tangents = op(f, X).derive("jvp", (0,))
    with pytest.raises(NoRuleError, match="no tangents of tangents where an"):
        tangents.derive("jvp", (0,))


@pytest.mark.filterwarnings("ignore:.* cannot be captured as a graph")
def test_a_function_that_looks_at_values():
    f = op(lambda x: Step.apply(x) * x if x.sum() > -100 else x, X, capture="auto")
    close(f.derive("jvp", (0,)).call(X, V), [X.round() * V])


def test_tangents_in_jax():
    jax = pytest.importorskip("jax")
    from bridge import torch2jax

    x, v = jax.numpy.asarray([0.3, -0.7, 1.2]), jax.numpy.asarray([1.0, 0.5, -2.0])
    for lower in ("ffi", "xla"):
        f = torch2jax(lambda x: Step.apply(x) * x, lower=lower)
        close([torch.tensor(jax.jvp(f, (x,), (v,))[1].tolist(), dtype=DOUBLE)], [X.round() * V])
        g = torch2jax(lambda x: (Step.apply(x) * x).sum(), lower=lower)
        expected = [X + X.round()]
        close([torch.tensor(jax.grad(g)(x).tolist(), dtype=DOUBLE)], expected, rtol=1e-5, atol=1e-6)
