"""Values that would lose their gradient in MLX: refused as arguments and when captured."""

import numpy as np
import pytest

from bridge import ArgumentError

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
from bridge import mlx2torch, to_torch, torch2mlx  # noqa: E402
from tests.mlx_transforms import WHERE, inner  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])


def test_values_of_an_inner_gradient_cut_the_outer_one():
    def evaluated(x):
        slope = inner(lambda x: x**3)(x)
        mx.eval(slope)
        return (slope**2).sum()

    assert not np.array(mx.grad(evaluated)(X)).any()  # which is 36 x**3
    square = torch2mlx(lambda x: x**2)
    found = mx.grad(lambda x: square(inner(lambda x: x**3)(x)).sum())(X)
    np.testing.assert_allclose(found, 36 * np.array(X) ** 3, rtol=1e-5)


@pytest.mark.parametrize("where", WHERE)
def test_values_that_are_converted_do_not_cut_a_gradient(where):
    mx.eval(X)

    def looked_at(x):
        slope = inner(lambda x: x**3)(x)
        with pytest.raises(ArgumentError):
            to_torch(slope)
        return (slope**2).sum()

    found = WHERE[where](lambda: np.array(mx.grad(looked_at)(X)))
    np.testing.assert_allclose(found, 36 * np.array(X) ** 3, rtol=1e-5)


WITHIN = {
    "grad": lambda f: mx.grad(lambda x: f(x).sum())(X),
    "jvp": lambda f: mx.jvp(lambda x: [f(x)], [X], [X]),
    "grad of grad": lambda f: inner(inner(f))(X),
    "value_and_grad of a module": lambda f: mx.value_and_grad(lambda tree: f(tree["x"]).sum())(
        {"x": X}
    ),
    "checkpoint": lambda f: inner(mx.checkpoint(f))(X),
}
MADE = {
    "itself": lambda x: x,
    "computed": lambda x: mx.sin(x) * 2,
    "complex": lambda x: x * 1j,
    "of no size": lambda x: x[:0],
    "stopped": mx.stop_gradient,
    "a gradient": lambda x: inner(lambda x: x**3)(x),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("within", WITHIN)
@pytest.mark.parametrize("where", WHERE)
def test_values_that_would_lose_their_gradient_are_refused(where, within, made):
    mx.eval(X)

    def converts(x):
        assert to_torch({"x": X})["x"].tolist() == X.tolist()  # a constant
        assert to_torch(np.array(MADE[made](x))).dim() == 1
        to_torch({"x": MADE[made](x)})
        return x

    with pytest.raises(ArgumentError, match=r"leaf x cannot.*lose its gradient.*torch2mlx"):
        WHERE[where](lambda: WITHIN[within](converts))
    assert WHERE[where](lambda: to_torch(MADE[made](X))).dim() == 1


CLOSING = {
    "grad": lambda y: mx.grad(lambda z: (z * y).sum())(X),
    "jvp": lambda y: mx.jvp(lambda z: [z * y], [X], [X]),
    "vjp": lambda y: mx.vjp(lambda z: [z * y], [X], [X]),
    "grad of a bridged function": lambda y: mx.grad(lambda z: (torch2mlx(torch.sin)(z) * y).sum())(
        X
    ),
}


@pytest.mark.parametrize("made", ["itself", "computed", "a gradient"])
@pytest.mark.parametrize("closing", CLOSING)
def test_values_that_an_inner_transformation_has_met_are_refused(closing, made):
    """It takes off the marks of what it closes over."""

    def converts(x):
        y = MADE[made](x)
        CLOSING[closing](y)
        to_torch(y)
        return x

    with pytest.raises(ArgumentError, match="lose its gradient"):
        inner(converts)(X)


THROUGH = {
    "a call": lambda f: mx.array(f(torch.ones(3)).numpy()),
    "a graph": lambda f: torch2mlx(lambda x: f(x) * 2)(X),
    "no graph": lambda f: torch2mlx(lambda x: f(x) * 2, capture="never")(X),
}


@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("called", [False, True])
def test_a_captured_array_that_would_lose_its_gradient_is_refused(through, called):
    weight = [X]
    multiply = mlx2torch(lambda x: x * weight[0])
    if called and through != "a graph":
        THROUGH[through](multiply)

    def captures(w):
        weight[0] = w * 2
        return THROUGH[through](multiply)

    with pytest.raises(ArgumentError, match=r"captures an array.*lose its gradient"):
        inner(captures)(X)


@pytest.mark.parametrize("through", THROUGH)
def test_functions_that_take_derivatives_themselves_capture_nothing_by_that(through):
    slope = mlx2torch(lambda x: inner(lambda x: x**3 * X)(x))
    expected = 3 * X if through == "a call" else 6 * X**3
    found = mx.value_and_grad(lambda w: (THROUGH[through](slope) * w).sum())(X)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_constants_that_are_put_off_are_converted():
    late = mx.sin(X)
    scaled = torch2mlx(lambda x: x * to_torch(mx.exp(late)), capture="never")
    np.testing.assert_allclose(inner(scaled)(X), np.exp(np.sin(X)), rtol=1e-6)
    seen = []
    inner(lambda x: (seen.append(to_torch(mx.cos(X))), x)[1])(X)
    np.testing.assert_allclose(seen[0], np.cos(X), rtol=1e-6)


def test_a_gradient_that_was_taken_before_is_a_constant():
    """It bears the mark that MLX gave it then."""
    before = inner(lambda x: x**2)(X)
    mx.eval(before)
    seen = []

    def converts(x):
        seen.append(to_torch(before).tolist())
        return x * before

    np.testing.assert_allclose(inner(converts)(X), before)
    assert seen == [before.tolist()]


def test_a_function_that_has_been_called_refuses_what_it_captures_later():
    weight = [X]
    scaled = torch2mlx(lambda x: x * to_torch(weight[0]), capture="never")
    scaled(X)

    def captures(w):
        weight[0] = w
        return scaled(X)

    with pytest.raises(ArgumentError, match=r"lose its gradient.*torch2mlx"):
        inner(captures)(X)


def test_arguments_that_would_lose_their_gradient_are_refused():
    multiply = mlx2torch(lambda x, w: x * w)

    def outside(x):
        return mx.array(multiply(torch.ones(3), x).numpy()).sum()

    outside(X)
    with pytest.raises(ArgumentError, match="lose its gradient"):
        mx.grad(outside)(X)
