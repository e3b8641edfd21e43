"""What runs for a derivative in MLX, counted on Ops that are written by hand."""

import gc
import weakref

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
pytest.importorskip("jax")
from bridge import ArgumentError, _registry, jax2mlx  # noqa: E402
from bridge._calls import executor  # noqa: E402
from bridge._core.spec import ArraySpec  # noqa: E402
from tests.handmade import Handmade  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])


class Recorded(Handmade):
    """Notes for which primals gradients are computed, and what residuals there were."""

    asked: list
    residuals: list
    splits: int = 0

    def split(self, wanted, given):
        self.splits += 1
        return super().split(wanted, given)

    def pull(self, xs, wanted, given, cotangents):
        self.asked.append((wanted, given))
        return super().pull(xs, wanted, given, cotangents)

    def derived(self, rule, fn, primals):
        def noted(*xs):
            outputs = fn(*xs)
            if rule == "forward":
                self.residuals.extend(weakref.ref(y) for y in outputs[len(self.specs()) :])
            return outputs

        return super().derived(rule, noted, primals)


def into_mlx(fn, *, arguments=1, keep=True, shape=(3,)):
    """A function of vectors in MLX, and its Op."""
    made = Recorded(fn, "f", [ArraySpec(shape, "float32")] * arguments, keep=keep)
    made.asked, made.residuals = [], []
    runner = executor.make_executor("torch", "mlx", device="cpu", compute_device="cpu")
    return _registry.target("mlx").make_native(made.op(), runner, None), made


def cube(x):
    return (x**3,)


def product(x, y):
    return x**2 * y, x * y**2


def inner(f):
    return mx.grad(lambda x: f(x)[0].sum())


def test_values_run_the_function_alone():
    f, made = into_mlx(cube)
    np.testing.assert_allclose(f(X)[0], X**3, rtol=1e-6)
    assert made.calls == {"f": 1}
    assert not made.splits  # which takes longer than a call
    inner(f)(X)
    inner(f)(X)
    assert made.splits == 1


def test_a_gradient_does_not_run_the_function_again():
    f, made = into_mlx(cube)
    for _ in range(2):
        np.testing.assert_allclose(inner(f)(X), 3 * X**2, rtol=1e-6)
    assert made.calls == {"f.forward": 2, "f.backward": 2}


def test_without_halves_it_runs_again():
    f, made = into_mlx(cube, keep=False)
    np.testing.assert_allclose(inner(f)(X), 3 * X**2, rtol=1e-6)
    assert made.calls == {"f": 1, "f.vjp": 1}


def test_second_order_is_that_of_the_whole():
    f, made = into_mlx(cube)
    np.testing.assert_allclose(inner(lambda x: [inner(f)(x) * x])(X), 9 * X**2, rtol=1e-6)
    assert made.calls == {"f.forward": 1, "f.backward": 1, "f.vjp.vjp": 1}


def test_tangents_are_those_of_the_function():
    f, made = into_mlx(cube)
    np.testing.assert_allclose(mx.jvp(lambda x: f(x), [X], [X])[1][0], 3 * X**3, rtol=1e-6)
    assert made.calls == {"f.forward": 1, "f.jvp": 1}


def test_a_tangent_of_another_dtype_is_refused():
    # In torch 2.13 the tangent of a float32 without axes, added to a number, is float64.
    f, _ = into_mlx(lambda x: (x / (1.5 + x * x),), shape=())
    with pytest.raises(ArgumentError, match=r"f\.jvp returned float64\[\], not float32\[\]"):
        mx.jvp(f, [mx.array(0.3)], [mx.array(1.0)])


def test_gradients_of_a_batch_run_once():
    f, made = into_mlx(cube)
    rows = mx.stack([X, 2 * X])
    np.testing.assert_allclose(mx.vmap(inner(f))(rows), 3 * rows**2, rtol=1e-6)
    assert made.calls == {"f.vjp.vmap": 1}


def test_only_wanted_gradients_of_used_outputs_are_computed():
    f, made = into_mlx(product, arguments=2)
    by = lambda at, y: mx.grad(lambda *xs: f(*xs)[y].sum(), argnums=at)(X, 3 * X)
    np.testing.assert_allclose(by(1, 0), X**2, rtol=1e-6)
    assert made.asked[-1] == ((1,), (0,))
    assert made.calls == {"f.forward": 1, "f.vjp": 1}  # residuals were made for all
    np.testing.assert_allclose(by(1, 0), X**2, rtol=1e-6)
    assert made.asked[-1] == ((1,), (0,))
    assert made.calls["f.backward"] == 1  # and are now made for these
    np.testing.assert_allclose(by(0, 1), (3 * X) ** 2, rtol=1e-6)
    assert made.asked[-1] == ((0,), (1,))
    for gradient, want in zip(by((0, 1), 1), (9 * X**2, 6 * X**2), strict=True):
        np.testing.assert_allclose(gradient, want, rtol=1e-5)


def test_second_order_asks_for_no_more():
    f, made = into_mlx(product, arguments=2)
    curve = mx.grad(lambda x: mx.grad(lambda x: f(x, 3 * X)[0].sum())(x).sum())
    np.testing.assert_allclose(curve(X), 6 * X, rtol=1e-6)
    assert {wanted for wanted, _ in made.asked} == {(0,)}
    first = f.args[0].derive("vjp", (0,), (0,))
    assert [*first._derived] == [("vjp", ((0, 2), (0,)))]  # by x and the cotangent, not by y


@pytest.mark.parametrize("evaluated", [True, False])
def test_residuals_go_with_the_graph(evaluated):
    f, made = into_mlx(cube)
    results = mx.value_and_grad(lambda x: f(x)[0].sum())(X)
    assert all(y() is not None for y in made.residuals)
    assert made.residuals
    if evaluated:
        mx.eval(results)
    else:
        del results
    gc.collect()
    assert all(y() is None for y in made.residuals)


@pytest.mark.parametrize("way", ["save", "recompute", "auto"])
def test_residuals_of_jax_are_an_option(way):
    import jax.numpy as jnp

    f = jax2mlx(lambda x: jnp.sin(x) * x, residuals=way)
    want = np.cos(X) * X + np.sin(X)
    np.testing.assert_allclose(mx.grad(lambda x: f(x).sum())(X), want, rtol=1e-5)
    assert way != "save" or "derivatives so far: save" in repr(f)


def test_jax_computes_in_64_bits_where_it_is_given_them():
    import jax.numpy as jnp

    with mx.stream(mx.cpu):
        x = mx.array([0.1, -1.7], dtype=mx.float64)
        f = jax2mlx(lambda x, n: jnp.sin(x) ** n)
        curve = mx.grad(lambda x: mx.grad(lambda x: f(x, 2).sum())(x).sum())(x)
    np.testing.assert_allclose(curve, 2 * np.cos(2 * np.array(x)), rtol=1e-13)
