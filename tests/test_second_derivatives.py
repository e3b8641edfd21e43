"""Derivatives of the gradients that users write in `autograd.Function`s."""

import itertools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

from torch.autograd import Function  # noqa: E402
from torch.autograd.function import once_differentiable  # noqa: E402

from bridge import NoRuleError, torch2jax  # noqa: E402
from tests.torch_functions import StraightThrough  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -0.7, 1.2], dtype=DOUBLE)
ONE = torch.ones((), dtype=DOUBLE)

pytestmark = pytest.mark.filterwarnings("ignore:.* cannot be captured as a graph")


def function(forward, backward):
    """The `apply` of an `autograd.Function` of these."""
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type("Custom", (Function,), members).apply


def sine(backward):
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    return function(forward, backward)


def in_no_grad(ctx, g):
    with torch.no_grad():
        return g * ctx.saved_tensors[0].cos()


def by_a_gradient(ctx, g):
    x = ctx.saved_tensors[0].detach().requires_grad_()
    with torch.enable_grad():
        y = x.sin()
    return torch.autograd.grad(y, x, g)[0]


def by_backward(ctx, g):
    x = ctx.saved_tensors[0].detach().clone()
    x.requires_grad = True
    with torch.enable_grad():
        x.sin().backward(g)
    return x.grad


def keep_intermediate(ctx, x):
    ctx.save_for_backward(x.cos())
    return x.sin()


def keep_attribute(ctx, x):
    ctx.slope = [x.cos()]
    return x.sin()


def keep_closure(ctx, x):
    slope = x.cos()
    ctx.pull = lambda g: g * slope
    return x.sin()


def keep_graph(ctx, x):
    with torch.enable_grad():
        ctx.x = x.detach().requires_grad_()
        ctx.y = ctx.x.sin()
    return ctx.y.detach()


class Exponential(Function):
    """What is saved is a result, but one without gradient."""

    @staticmethod
    def forward(x):
        return x.sin(), x.cos()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.saved_tensors[0]


class OnceByContext(Function):
    """Written as since torch 2."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()


times_cosine = lambda ctx, g: g * ctx.saved_tensors[0].cos()
SINES = {
    "once differentiable": sine(once_differentiable(times_cosine)),
    "once differentiable, with a context": OnceByContext.apply,
    "no_grad": sine(in_no_grad),
    "a gradient": sine(by_a_gradient),
    "backward": sine(by_backward),
    "an intermediate": function(keep_intermediate, lambda ctx, g: g * ctx.saved_tensors[0]),
    "an attribute": function(keep_attribute, lambda ctx, g: g * ctx.slope[0]),
    "a closure": function(keep_closure, lambda ctx, g: ctx.pull(g)),
    "a graph": function(keep_graph, lambda ctx, g: torch.autograd.grad(ctx.y, ctx.x, g)[0]),
    "a result without gradient": lambda x: Exponential.apply(x)[0],
}
every_sine = pytest.mark.parametrize("sin", SINES.values(), ids=SINES)


def composed(sin):
    return lambda x: (sin(x * x) * x.sum()).sum()


def hessian(f):
    """By rows: for each order of nesting."""
    gradient = op(f, X).derive("vjp", (0,), (0,))
    vectors = torch.eye(3, dtype=DOUBLE)
    for derived in (gradient.derive("vjp", (0,), (0,)), gradient.derive("jvp", (0,))):
        yield torch.stack([derived.call(X, ONE, v)[0] for v in vectors])
    forward = op(f, X).derive("jvp", (0,)).derive("vjp", (0,), (0,))
    yield torch.stack([forward.call(X, v, ONE)[0] for v in vectors])


@every_sine
def test_hessians_in_every_order_of_nesting(sin):
    expected = torch.func.hessian(composed(torch.sin))(X)
    for found in hessian(composed(sin)):
        close([found], [expected])


@pytest.mark.parametrize("name", ["once differentiable", "backward", "a closure"])
def test_third_derivatives(name):
    sin = SINES[name]
    args = [X, ONE, X.cos(), X.sin()]
    third = op(composed(sin), X)
    for _ in range(3):
        third = third.derive("vjp", (0,), (0,))
    slope = torch.func.grad(composed(torch.sin))
    second = torch.func.grad(lambda x: slope(x) @ args[2])
    close(third.call(*args), [torch.func.grad(lambda x: second(x) @ args[3])(X)])


def stable_logsumexp():
    def forward(ctx, x):
        exponentials = (x - x.max()).exp()
        total = exponentials.sum()
        ctx.save_for_backward(exponentials / total)
        return x.max() + total.log()

    return function(forward, lambda ctx, g: g * ctx.saved_tensors[0])


def test_the_stable_logsumexp():
    for found in hessian(stable_logsumexp()):
        close([found], [torch.func.hessian(lambda x: x.logsumexp(0))(X)])


class Checkpoint(Function):
    """Made by hand."""

    @staticmethod
    def forward(ctx, fn, *xs):
        ctx.fn = fn
        ctx.save_for_backward(*xs)
        with torch.no_grad():
            return fn(*xs)

    @staticmethod
    def backward(ctx, *cotangents):
        xs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        free = [x for x in xs if x.requires_grad]
        with torch.enable_grad():
            ys = ctx.fn(*xs)
        gradients = iter(torch.autograd.grad(ys, free, cotangents))
        return None, *(next(gradients) if x.requires_grad else None for x in xs)


def test_a_checkpoint_made_by_hand():
    layer = lambda x, w: torch.tanh(x * w).prod() * x
    plain = lambda x: layer(x, X.cos()).sin().sum()
    checkpointed = lambda x: Checkpoint.apply(layer, x, X.cos()).sin().sum()
    for found in hessian(checkpointed):
        close([found], [torch.func.hessian(plain)(X)])


def test_rules_of_other_functions_are_kept():
    """A step has the derivative that the user gave it, next to a Function that is followed."""
    scale = torch.tensor(2.0, dtype=DOUBLE)
    f = lambda x: (StraightThrough.apply(x, scale) * SINES["once differentiable"](x)).sum()
    step = torch.where(X > 0, 2.0, -2.0)
    expected = torch.diag(4 * X.cos() - step * X.sin())
    for found in hessian(f):
        close([found], [expected])


def test_a_second_derivative_by_the_user():
    class Slope(Function):
        @staticmethod
        def forward(ctx, g, x):
            ctx.save_for_backward(g, x)
            return g * x.cos()

        @staticmethod
        def backward(ctx, h):
            g, x = ctx.saved_tensors
            return h * x.cos(), 5 * g * h

    f = sine(lambda ctx, g: Slope.apply(g, ctx.saved_tensors[0]))
    for found in itertools.islice(hessian(lambda x: f(x).sum()), 2):
        close([found], [5 * torch.eye(3, dtype=DOUBLE)])


def test_a_result_that_is_saved_keeps_its_gradient():
    def forward(ctx, x):
        y = x.round()
        ctx.save_for_backward(y)
        return y

    f = function(forward, lambda ctx, g: g * ctx.saved_tensors[0])
    for found in hessian(lambda x: f(2 * x).sum()):
        close([found], [4 * torch.diag((2 * X).round())])


def test_detach_stops_derivatives():
    for found in hessian(lambda x: (x.detach() * x).sum()):
        close([found], [torch.zeros(3, 3, dtype=DOUBLE)])
    f = sine(lambda ctx, g: g * ctx.saved_tensors[0].detach().cos())
    for found in hessian(lambda x: f(x).sum()):
        close([found], [torch.zeros(3, 3, dtype=DOUBLE)])


def by_numpy(ctx, g):
    return g * torch.as_tensor(np.cos(ctx.saved_tensors[0].detach().numpy()))


def by_item(ctx, g):
    (x,) = ctx.saved_tensors
    return g * x.cos() * (x.sum().item() / x.sum())


def frozen(x):
    with torch.no_grad():
        scale = x.sum()
    return x * scale


def changed(ctx, x):
    x.mul_(2)
    ctx.mark_dirty(x)
    ctx.slope = x.cos()
    return x


REFUSED = {
    "NumPy": (sine(by_numpy), "leaves torch.*no graph can be made of it"),
    "item": (sine(by_item), "leaves torch.*no graph can be made of it"),
    "detach in a checkpoint": (
        lambda x: Checkpoint.apply(lambda x: x * x.detach(), x),
        "records nothing.*a detach or torch.no_grad stands in its backward",
    ),
    "no_grad in a checkpoint": (
        lambda x: Checkpoint.apply(frozen, x),
        "records nothing.*a detach or torch.no_grad stands in its backward",
    ),
    "a rule in a checkpoint": (
        lambda x: Checkpoint.apply(lambda x: StraightThrough.apply(x, X.sum()), x),
        "records nothing.*calls another autograd.Function, StraightThrough",
    ),
    "an argument changed": (
        lambda x: function(changed, lambda ctx, g: 2 * g * ctx.slope)(x * x),
        "what its forward computed besides its results.*changes an argument in place",
    ),
}


@pytest.mark.parametrize(("f", "text"), REFUSED.values(), ids=REFUSED)
def test_a_gradient_that_cannot_be_followed_is_refused(f, text):
    gradient = op(lambda x: f(x).sum(), X, capture="auto").derive("vjp", (0,), (0,))
    with pytest.raises(NoRuleError, match=f"the gradient of the autograd.Function .* {text}"):
        gradient.derive("vjp", (0,), (0,))


def test_a_gradient_that_looks_at_values_but_is_recorded():
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * x.cos() if x.sum() > -100 else g

    gradient = op(composed(sine(backward)), X, capture="auto").derive("vjp", (0,), (0,))
    second = gradient.derive("vjp", (0,), (0,))
    rows = torch.stack([second.call(X, ONE, v)[0] for v in torch.eye(3, dtype=DOUBLE)])
    close([rows], [torch.func.hessian(composed(torch.sin))(X)])


def test_noise_that_only_a_gradient_shows_asks_for_a_key():
    f = function(
        lambda ctx, x: (ctx.save_for_backward(x, x * torch.rand(3)), x * 1)[1],
        lambda ctx, g: g * ctx.saved_tensors[1],
    )
    with pytest.raises(NoRuleError, match=r"draws random numbers in its gradient.* Pass a key"):
        op(lambda x: f(x).sum(), X, capture="auto").derive("vjp", (0,), (0,))


def test_dropout_of_the_user_keeps_its_second_derivative():
    def forward(ctx, x):
        mask = (torch.rand(3) > 0.5).to(x)
        ctx.save_for_backward(mask)
        return x * mask

    drop = function(forward, lambda ctx, g: g * ctx.saved_tensors[0])
    f = op(lambda x, seed: (drop(x) ** 2).sum(), X, torch.tensor([7]), seed_argnum=1)
    seed = torch.tensor([3])
    second = f.derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,))
    mask = f.derive("vjp", (0,), (0,)).call(X, seed, ONE)[0] / (2 * X)
    close(second.call(X, seed, ONE, X.cos()), [2 * mask * X.cos()])


def test_a_gradient_within_the_function():
    """Then the first derivative is the second one of what is within."""
    sin = SINES["once differentiable"]

    def force(x, sin):
        with torch.enable_grad():
            x = x if x.requires_grad else x.requires_grad_()
            return torch.autograd.grad(sin(x * x).sum(), x, create_graph=True)[0].sum()

    found = op(lambda x: force(x, sin), X).derive("vjp", (0,), (0,)).call(X, ONE)
    free = X.clone().requires_grad_()
    close(found, torch.autograd.grad(force(free, torch.sin), free))


def test_batches_of_second_derivatives():
    many = torch.stack([X, X.cos()])
    expected = torch.func.vmap(torch.func.hessian(composed(torch.sin)))(many)
    vectors, ones = torch.eye(3, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    for name in ("once differentiable", "once differentiable, with a context"):
        f = op(composed(SINES[name]), X)
        of_batch = f.derive("vmap", (0,), 2).derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,))
        batch = f.derive("vjp", (0,), (0,)).derive("vmap", (0, 0), 2).derive("vjp", (0,), (0,))
        of_all = f.derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,)).derive("vmap", (0, 0, 0), 2)
        for derived in (of_batch, batch, of_all):
            rows = [derived.call(many, ones, v.expand(2, 3).contiguous())[0] for v in vectors]
            close([torch.stack(rows, 1)], [expected])


NESTED = {"ffi": jax.hessian, "xla": lambda f: jax.jacrev(jax.jacfwd(f))}


@pytest.mark.parametrize("lower", NESTED)
def test_hessians_in_jax(lower):
    x = np.array([0.3, -0.7, 1.2], "float32")
    f = torch2jax(composed(SINES["an intermediate"]), lower=lower)
    plain = lambda x: (jax.numpy.sin(x * x) * x.sum()).sum()
    nested = NESTED[lower]
    np.testing.assert_allclose(nested(f)(x), nested(plain)(x), rtol=1e-4, atol=1e-5)


def test_hessians_in_mlx():
    mx = pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    f = torch2mlx(composed(SINES["an intermediate"]))
    plain = lambda x: (mx.sin(x * x) * x.sum()).sum()
    x, v = mx.array([0.3, -0.7, 1.2]), mx.array([1.0, 0.5, -2.0])
    along = lambda f: mx.grad(lambda x: (mx.grad(f)(x) * v).sum())(x)
    np.testing.assert_allclose(along(f), along(plain), rtol=1e-4, atol=1e-5)
