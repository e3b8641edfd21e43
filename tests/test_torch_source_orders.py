"""Ops derived from Ops of torch, to the depth that the targets ask for."""

import itertools
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch.func import grad, hessian, jacfwd, jvp, vjp, vmap  # noqa: E402

from bridge import NoRuleError  # noqa: E402
from tests.torch_functions import Clipped, Reversal, StraightThrough, Undifferentiable  # noqa: E402
from tests.torch_ops import backward, close, cube, op, spec  # noqa: E402

DOUBLE = torch.float64


def field(x, w):
    """Smooth, neither symmetric nor linear in anything."""
    y = torch.tanh(x @ w) + x.prod()
    y = y.clone()
    y[1] *= x[0]
    return y.sigmoid() * torch.arange(1.0, 5.0, dtype=DOUBLE)


_generator = torch.Generator().manual_seed(5)
X = torch.rand(3, dtype=DOUBLE, generator=_generator)
W = torch.randn(3, 4, dtype=DOUBLE, generator=_generator)
C = torch.randn(4, dtype=DOUBLE, generator=_generator)


class Native:
    """What an Op does, by torch.func."""

    def __init__(self, fn):
        self.fn = fn

    def vjp(self, count, wanted):
        def gradients(*args):
            xs, cotangents = list(args[:count]), args[count:]

            def of_wanted(*free):
                for i, x in zip(wanted, free, strict=True):
                    xs[i] = x
                return self.fn(*xs)

            return vjp(of_wanted, *(xs[i] for i in wanted))[1](tuple(cotangents))

        return Native(gradients)

    def jvp(self, count, given):
        def tangents(*args):
            xs, moving = list(args[:count]), args[count:]

            def of_given(*free):
                for i, x in zip(given, free, strict=True):
                    xs[i] = x
                return tuple(self.fn(*xs))

            return jvp(of_given, tuple(xs[i] for i in given), tuple(moving))[1]

        return Native(tangents)

    def vmap(self, axes):
        return Native(vmap(lambda *xs: tuple(self.fn(*xs)), axes))


STEPS = ("vjp", "jvp", "vmap")


@pytest.mark.parametrize("path", list(itertools.product(STEPS, STEPS, STEPS)), ids="-".join)
def test_three_rules_in_any_order(path):
    f, native = op(field, X, W), Native(lambda x, w: (field(x, w),))
    args = [X, W]
    for step in path:
        count, outputs = len(args), f.output_specs()
        if step == "vjp":
            every = tuple(range(len(outputs)))
            args += [torch.randn(y.shape, dtype=DOUBLE) for y in outputs]
            f, native = f.derive("vjp", (0, 1), every), native.vjp(count, (0, 1))
        elif step == "jvp":
            args += [torch.randn(args[0].shape, dtype=DOUBLE)]
            f, native = f.derive("jvp", (0,)), native.jvp(count, (0,))
        else:
            axes = tuple(None if i == 1 else 0 for i in range(count))
            args = [
                x if axis is None else torch.stack([x, x.sin(), x.cos()])
                for x, axis in zip(args, axes, strict=True)
            ]
            f, native = f.derive("vmap", axes, 3), native.vmap(axes)
    assert f.output_specs() == tuple(map(spec, native.fn(*args)))
    close(f.call(*args), native.fn(*args))


def test_hessian():
    f = op(lambda x: field(x, W).sum(), X)
    gradient = f.derive("vjp", (0,), (0,))
    rows = gradient.derive("jvp", (0,)).derive("vmap", (None, None, 0), 3)
    found = rows.call(X, torch.ones((), dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
    close(found, [hessian(lambda x: field(x, W).sum())(X)])


def test_third_order():
    f = op(lambda x: (x.sin() * x.prod()).sum(), X)
    third = f
    native = lambda x: (x.sin() * x.prod()).sum()
    args = [X]
    for n in range(3):
        third = third.derive("vjp", (0,), (0,))
        args.append(torch.ones((), dtype=DOUBLE) if n == 0 else X.cos() + n)
    g1 = grad(native)
    g2 = grad(lambda x: (g1(x) * args[2]).sum())
    g3 = grad(lambda x: (g2(x) * args[3]).sum())
    close(third.call(*args), [g3(X)])


LEGACY = {
    "straight-through": lambda x, s: StraightThrough.apply(x.sin(), s) * x,
    "clipped": lambda x, s: Clipped.apply(x * s) ** 2,
    "reversal": lambda x, s: Reversal.apply(x * s, 3.0) ** 2,
}
S = torch.tensor(0.7, dtype=DOUBLE)


@pytest.mark.parametrize("name", LEGACY)
def test_the_batch_of_a_custom_function_keeps_its_gradient(name):
    xs = torch.stack([X, X.cos(), 2 * X])
    f = op(LEGACY[name], X, S).derive("vmap", (0, None), 3)
    cotangents = torch.randn(3, 3, dtype=DOUBLE)
    free = xs.clone().requires_grad_(), S.clone().requires_grad_()
    outputs = torch.stack([LEGACY[name](x, free[1]) for x in free[0]])
    expected = torch.autograd.grad(outputs, free, cotangents)
    close(f.call(xs, S), [outputs])
    close(f.derive("vjp", (0, 1), (0,)).call(xs, S, cotangents), expected)


def test_the_batch_of_a_batch_of_a_custom_function():
    f = op(LEGACY["straight-through"], X, S)
    twice = f.derive("vmap", (0, None), 2).derive("vmap", (1, 0), 4)
    xs, ss = torch.randn(2, 4, 3, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    free = xs.clone().requires_grad_(), ss.clone().requires_grad_()
    fn = LEGACY["straight-through"]
    outputs = torch.stack(
        [torch.stack([fn(free[0][i, j], free[1][j]) for i in range(2)]) for j in range(4)]
    )
    cotangents = torch.randn(4, 2, 3, dtype=DOUBLE)
    expected = torch.autograd.grad(outputs, free, cotangents)
    close(twice.call(xs, ss), [outputs])
    close(twice.derive("vjp", (0, 1), (0,)).call(xs, ss, cotangents), expected)


@pytest.mark.parametrize("name", ["straight-through", "clipped", "reversal"])
def test_second_order_of_the_batch_of_a_custom_function(name):
    f = op(LEGACY[name], X, S).derive("vmap", (0, None), 2)
    xs = torch.randn(2, 3, dtype=DOUBLE)
    cotangents, others = torch.randn(2, 3, dtype=DOUBLE), torch.randn(2, 3, dtype=DOUBLE)
    free = [t.clone().requires_grad_() for t in (xs, S, cotangents)]
    outputs = torch.stack([LEGACY[name](x, free[1]) for x in free[0]])
    first = torch.autograd.grad(outputs, free[0], free[2], create_graph=True)
    expected = torch.autograd.grad(first, free, others)
    gradients = f.derive("vjp", (0,), (0,))
    found = gradients.derive("vjp", (0, 1, 2), (0,)).call(xs, S, cotangents, others)
    close(found, expected)


def test_a_shared_argument_gets_the_gradient_of_all_examples_without_one_for_each():
    f = op(lambda x, w: torch.tanh(x @ w), torch.randn(8), torch.randn(8, 8))
    batch = f.derive("vmap", (0, None), 64).derive("vjp", (1,), (0,))
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            sizes.append(found.numel())
            return found

    with Sizes():
        batch.call(torch.randn(64, 8), torch.randn(8, 8), torch.randn(64, 8))
    assert max(sizes) <= 64 * 8


NOT_LINEAR = {
    "clipped": lambda x, g: g.clip(-0.1, 0.1),
    "clipped by a norm": lambda x, g: g / g.norm().clamp(min=1),
    "squared": lambda x, g: g * g,
    "signs": lambda x, g: g.sign() * x,
    "rounded": lambda x, g: (3 * g).round(),
    "with a stopped gradient": lambda x, g: g.detach() * x,
    "without its cotangent": lambda x, g: x.cos(),
    "ones": lambda x, g: torch.ones_like(x),
    "with an addend": lambda x, g: 2 * g + x,
}


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_no_tangents_where_a_gradient_is_not_linear(kind):
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return NOT_LINEAR[kind](ctx.saved_tensors[0], g)

    with pytest.raises(NotImplementedError, match=r"not linear in the cotangent|disagree"):
        op(Custom.apply, X).derive("jvp", (0,))


def test_distances_have_tangents_where_torch_has_a_formula():
    """Torch 2.15 can differentiate the gradient of `_cdist_forward`, and 2.13 can not."""
    f, moving = op(torch.cdist, X[None], W.T), X[None].cos()
    try:
        tangents = f.derive("jvp", (0,))
    except NotImplementedError:
        pytest.skip("this torch has no formula")
    step = 1e-6 * moving
    ahead, behind = torch.cdist(X + step, W.T), torch.cdist(X - step, W.T)
    (found,) = tangents.call(X[None], W.T, moving)
    torch.testing.assert_close(found, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


def test_an_operator_without_any_formula_is_named():
    q = torch.randn(1, 2, 5, 4)
    f = op(torch.nn.functional.scaled_dot_product_attention, q, q, q)
    with pytest.raises(NotImplementedError, match="_scaled_dot_product_flash_attention_for_cpu"):
        f.derive("jvp", (0,))
    gradients = f.derive("vjp", (0,), (0,))
    with pytest.raises(NotImplementedError, match="flash_attention_for_cpu_backward"):
        gradients.derive("vjp", (0,), (0,))


def test_a_part_without_gradient_has_no_tangent_either():
    # torch.func.jvp ignores torch.no_grad, which would part gradients and tangents.
    def fn(x):
        with torch.no_grad():
            scale = x.sum()
        return x * scale

    moving = torch.randn(3, dtype=DOUBLE)
    close(op(fn, X).derive("jvp", (0,)).call(X, moving), [moving * X.sum()])


@pytest.fixture
def _no_loops():
    """Let torch refuse to batch what it has no rule for, in place of a loop over examples."""
    enabled = torch._C._functorch._is_vmap_fallback_enabled()
    torch._C._functorch._set_vmap_fallback_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_enabled(enabled)


@pytest.mark.usefixtures("_no_loops")
def test_an_operator_that_cannot_be_batched_is_named():
    x = torch.randn(6, dtype=DOUBLE)
    f = op(lambda x: (x * 2).unfold(0, 2, 1), x)
    split = f.derive("forward_backward", (0,), (0,))
    with pytest.raises(NotImplementedError, match="aten::unfold_backward"):
        split.backward((0,)).derive("vmap", (0,), 3)


def test_jacobian_by_columns_of_a_batch():
    f = op(field, X, W)
    columns = f.derive("jvp", (0,)).derive("vmap", (None, None, 0), 3)
    found = columns.call(X, W, torch.eye(3, dtype=DOUBLE))[0]
    close([found], [jacfwd(field)(X, W).T])


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f = op(field, X, W)
        split = f.derive("forward_backward", (0, 1), (0,))
        backward(split, [X, W], split.forward.call(X, W), [C], (0, 1))


def test_no_tangents_where_a_gradient_cannot_be_differentiated():
    with pytest.raises(NotImplementedError, match="tangents and gradients disagree"):
        op(lambda x: Undifferentiable.apply(x.sin()), X).derive("jvp", (0,))
    with pytest.raises(NotImplementedError, match="tangents and gradients disagree"):
        op(lambda x: Undifferentiable.apply(x.sin()) + x, X).derive("jvp", (0,))


def test_in_place_code_is_batched_without_a_loop():
    # Functional in-place code has operators that torch batches one example at a time.
    def fn(x):
        y = torch.zeros(3, dtype=DOUBLE)
        y[1:] = x[1:]
        y[0].fill_(2.0)
        return y * x

    f = op(fn, X)
    split = f.derive("forward_backward", (0,), (0,))
    many = torch.randn(50, 3, dtype=DOUBLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = f.derive("vmap", (0,), 50)
        halves = split.forward.derive("vmap", (0,), 50)
    close(batch.call(many), [torch.stack([fn(x) for x in many])])
    close(halves.call(many)[:1], batch.call(many))


def test_custom_operators():
    plain = lambda x, w: x**3 * w
    f = op(lambda x, w: cube(x) * w, X, S)
    c, many = X.cos(), torch.stack([X, X.sin()])
    close(f.call(X, S), [plain(X, S)])
    expected = vjp(plain, X, S)[1](c)
    split = f.derive("forward_backward", (0, 1), (0,))
    close(backward(split, [X, S], split.forward.call(X, S), [c], (0, 1)), expected)
    gradients = f.derive("vjp", (0, 1), (0,))
    close(gradients.call(X, S, c), expected)
    close(f.derive("jvp", (0,)).call(X, S, c), [3 * X**2 * S * c])
    native = vjp(lambda x, w, c: vjp(plain, x, w)[1](c), X, S, c)[1](expected)
    close(gradients.derive("vjp", (0, 1, 2), (0, 1)).call(X, S, c, *expected), native)
    batch = f.derive("vmap", (0, None), 2)
    close(batch.call(many, S), [plain(many, S)])
    found = batch.derive("vjp", (0, 1), (0,)).call(many, S, many.cos())
    close(found, vjp(plain, many, S)[1](many.cos()))
    close(batch.derive("jvp", (0,)).call(many, S, many), [3 * many**3 * S])


class Prepared(torch.autograd.Function):
    """The square, whose gradient is computed in advance where that is asked for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, needed):
        return x**2, 2 * x if needed else torch.zeros_like(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, g, _):
        return g * ctx.saved_tensors[0], None


def test_a_function_that_asks_for_gradients_keeps_them_in_a_batch():
    # Inside of torch.func.vmap, no tensor requires gradients.
    batch = op(lambda x: Prepared.apply(x, x.requires_grad)[0], X).derive("vmap", (0,), 2)
    many = torch.stack([X, X.sin()])
    found = batch.derive("vjp", (0,), (0,)).call(many, many.cos())
    close(found, [2 * many * many.cos()])
    assert batch.derive("forward_backward", (0,), (0,)) is None


def test_a_harmless_question_costs_a_batch_nothing():
    def fn(x):
        return x.sin() if x.requires_grad else x.clone().sin()

    batch = op(fn, X).derive("vmap", (0,), 2)
    many = torch.stack([X, X.sin()])
    split = batch.derive("forward_backward", (0,), (0,))
    found = backward(split, [many], split.forward.call(many), [many], (0,))
    close(found, [many.cos() * many])


@pytest.mark.filterwarnings("ignore:f.* cannot be captured as a graph")
def test_tangents_that_torch_ignores_are_refused_where_gradients_look_at_values():
    """torch.func.jvp has zeros for products that are scattered."""
    index = torch.tensor([0, 0, 1])
    product = lambda x: torch.ones(2, dtype=x.dtype).scatter_reduce(0, index, x, "prod").sum()
    x, one = torch.tensor([2.0, 3.0, 5.0], dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    f = op(product, x, capture="auto")
    assert torch.func.jvp(product, (x,), (x,))[1] == 0
    with pytest.raises(NoRuleError, match="no jvp of f: a gradient in it looks at values"):
        f.derive("jvp", (0,))
    gradient = f.derive("vjp", (0,), (0,))
    close(gradient.call(x, one), [torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE)])
    second = gradient.derive("vjp", (0,), (0,)).call(x, one, x)
    close(second, [torch.tensor([3.0, 2.0, 0.0], dtype=DOUBLE)])


def test_a_function_that_saves_a_closure_with_nothing_in_it():
    def make(empty):
        def helper(g):
            return later(g)

        if not empty:
            later = torch.sin
        return helper

    class Saves(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.helper = make(empty=True)
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0].cos()

    f = op(Saves.apply, X).derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,))
    close(f.call(X, X, X), [-X * X * X.sin()])
