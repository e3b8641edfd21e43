"""`bridge.testing`: what is right passes, and what is wrong is named."""

import contextlib
import sys
import warnings

import numpy as np
import pytest

import bridge
from bridge.testing import check_gradients
from tests.kits import kit

X = np.array([0.3, -1.2])
Y = np.array([[0.7, 2.0]])
PLACES = ("torch", "jax", "mlx")


@pytest.fixture(params=PLACES)
def place(request):
    """A framework in which float64 can be had."""
    with doubles(request.param) as found:
        yield found


@contextlib.contextmanager
def doubles(name):
    found = kit(name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(found.wide())
        if name == "mlx":
            mx = found.xp
            stack.enter_context(mx.stream(mx.cpu))
        yield found


def without_forward_mode(name, factor=1.0):
    """`x * x` with a gradient of its own, times `factor`, and no tangent."""
    if name == "torch":
        torch = pytest.importorskip("torch")

        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx, cotangent):
                return factor * 2 * ctx.saved_tensors[0] * cotangent

        return Square.apply
    jax = pytest.importorskip("jax")

    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, cotangent: (factor * 2 * x * cotangent,))
    return square


def test_right_function_passes(place):
    check_gradients(lambda x, y: (x * x * y, x - y), place.array(X), y=place.array(Y))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_forward_mode_without_a_rule_is_skipped_with_a_warning(name):
    with doubles(name) as place:
        x, fn = place.array(X), without_forward_mode(name)
        with warnings.catch_warnings(record=True) as caught:  # among others, of torch itself
            warnings.simplefilter("always")
            check_gradients(fn, x)
        (skipped,) = [w for w in caught if "skips forward mode of" in str(w.message)]
        assert 'modes="rev"' in str(skipped.message)
        assert skipped.filename == __file__
        check_gradients(fn, x, modes="rev")
        with pytest.raises(NotImplementedError):
            check_gradients(fn, x, modes=("fwd", "rev"))


def test_operation_of_mlx_without_a_rule():
    with doubles("mlx") as place:
        mx = place.xp
        x = mx.array([[0.3, -1.2], [1.0, 0.4]], dtype=mx.float64)
        inverse = lambda x: mx.linalg.inv(x, stream=mx.cpu)
        with pytest.raises(bridge.NoRuleError, match=r"Not implemented for Inverse"):
            check_gradients(inverse, x, modes="rev")


def test_wrong_gradient_is_found_where_forward_mode_is_skipped():
    fn = without_forward_mode("jax", factor=2.0)
    skips = pytest.warns(UserWarning, match="skips")
    with doubles("jax") as place, pytest.raises(AssertionError) as caught, skips:
        check_gradients(fn, place.array(X))
    assert (
        "by argument x[1] is -4.8, and finite differences give -2.4" in caught.value.__notes__[-1]
    )


def wrong(name):
    """`x * y`, whose gradient by `y` is twice what it should be for the second element."""
    scale = np.array([[1.0, 2.0]])
    if name == "mlx":
        mx = pytest.importorskip("mlx.core")
        scale = mx.array(scale, dtype=mx.float64)
        product = mx.custom_function(lambda x, y: x * y)
        product.vjp(lambda p, c, _: ((c * p[1]).sum(0), c * p[0] * scale))
        product.jvp(lambda p, t: t[0] * p[1] + t[1] * p[0])
        return product
    jax = pytest.importorskip("jax")

    @jax.custom_vjp
    def product(x, y):
        return x * y

    backward = lambda p, c: ((c * p[1]).sum(0), c * p[0] * scale)
    product.defvjp(lambda x, y: (x * y, (x, y)), backward)
    if name == "torch":
        return bridge.jax2torch(product)
    return product


def test_wrong_element_is_named_with_both_values(place):
    fn = wrong(place.name)

    def energy(x, weights):
        return {"y": fn(x, weights["w"])}

    with pytest.raises((RuntimeError, AssertionError)) as caught:
        check_gradients(energy, place.array(X), {"w": place.array(Y)}, modes="rev")
    note = caught.value.__notes__[-1]
    assert "result[0, 1] of energy by argument weights['w'][0, 1] is -2.4" in note
    assert "finite differences give -1.2" in note
    assert "single precision" not in note


def test_single_precision_is_refused_by_name(place):
    x = place.array(X.astype(np.float32))

    def energy(state):
        return state["x"] * 2

    text = r"argument state\['x'\] is float32\[2\], and finite differences need float64.*eps=1e-2"
    with pytest.raises(bridge.ArgumentError, match=text):
        check_gradients(energy, {"x": x})
    check_gradients(energy, {"x": x}, eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", PLACES)
def test_single_precision_within_is_named_as_the_cause(name):
    with doubles(name) as place:
        xp = place.xp
        to = (lambda y, dtype: y.to(dtype)) if name == "torch" else lambda y, dtype: y.astype(dtype)
        rounded = lambda x: to(xp.sin(to(x, xp.float32)), xp.float64)
        with pytest.raises((RuntimeError, AssertionError)) as caught:
            check_gradients(rounded, place.array(X), order=1)
        assert "in single precision, and a step of 1e-06" in caught.value.__notes__[-1]


def test_function_of_numbers_of_numpy():
    """The checker of JAX takes differences of NumPy's arrays, whose sums are no arrays."""
    with doubles("jax") as place:
        check_gradients(lambda x: (x**3).sum(), place.array(X))


def test_mode_that_is_none(place):
    with pytest.raises(bridge.OptionError, match=r"modes='reverse'.*\"fwd\" and \"rev\""):
        check_gradients(lambda x: x, place.array(X), modes="reverse")


def test_no_array_to_differentiate():
    with pytest.raises(bridge.ArgumentError, match="needs floating-point arrays"):
        check_gradients(lambda x: x, X)
    with pytest.raises(bridge.ArgumentError, match="needs floating-point arrays"):
        check_gradients(lambda x: x, 1.0)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_plot_is_a_v_of_a_right_gradient_and_a_floor_of_a_wrong_one(factor, tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    path, axes = tmp_path / "v.png", figure.subplots()
    with doubles("jax") as place:
        fn, x = without_forward_mode("jax", factor), place.array(X)
        cubic = lambda x: fn(x) * x
        for plot in (path, axes):
            with contextlib.nullcontext() if factor == 1 else pytest.raises(AssertionError):
                check_gradients(cubic, x, modes="rev", plot=plot)
    assert path.stat().st_size > 5_000
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    steps, errors = map(np.asarray, axes.lines[0].get_data())
    best = errors.min()
    assert (best < 1e-9) == (factor == 1)
    if factor == 1:  # curvature to the right, rounding to the left
        assert errors[steps == 1.0] > 1e8 * best
        assert errors[steps < 1e-11].max() > 1e3 * best


def test_plot_without_matplotlib_names_the_line_of_pip(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bridge.MissingFrameworkError, match="pip install matplotlib"):
        check_gradients(lambda x: x * x, place.array(X), plot="v.png")
