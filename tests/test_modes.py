"""Modes of torch's autograd, and that nothing is computed for gradients nobody asked for."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.tensors import leaves  # noqa: E402

RANDOM = np.random.default_rng(10)
X = RANDOM.uniform(0.3, 1.5, (3,)).astype("float32")
Y = RANDOM.uniform(-1.5, 1.5, (3,)).astype("float32")


def test_no_grad(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    with torch.no_grad():
        y = wrap(source.xp.sin)(x)
    assert not y.requires_grad
    assert y.grad_fn is None
    torch.testing.assert_close(y, x.detach().sin())


def test_inference_mode(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    with torch.inference_mode():
        y = wrap(source.xp.sin)(x)
    assert y.is_inference()
    torch.testing.assert_close(y.clone(), x.detach().sin())


def test_inference_tensor_outside_of_its_mode(into_torch):
    source, wrap = into_torch
    with torch.inference_mode():
        x = torch.tensor(X)
    torch.testing.assert_close(wrap(source.xp.sin)(x), torch.tensor(X).sin())


@pytest.mark.parametrize("mode", [True, False])
def test_set_grad_enabled(into_torch, mode):
    source, wrap = into_torch
    (x,) = leaves(X)
    with torch.set_grad_enabled(mode):
        assert wrap(source.xp.sin)(x).requires_grad is mode


def test_enable_grad_within_no_grad(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    with torch.no_grad(), torch.enable_grad():
        y = wrap(source.xp.sin)(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], x.detach().cos())


def test_inputs_that_do_not_require_grad(into_torch):
    source, wrap = into_torch
    y = wrap(source.xp.sin)(torch.tensor(X))
    assert not y.requires_grad
    assert y.is_leaf


def test_the_same_function_with_and_without_gradient(into_torch):
    """Modes one after the other, in every order, do not disturb one another."""
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    for wanted in (False, True, False, True):
        x = torch.tensor(X, requires_grad=wanted)
        assert f(x).requires_grad is wanted
        with torch.no_grad():
            assert not f(x).requires_grad
    f(x).backward()
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_integer_results_are_not_differentiable(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    f = wrap(lambda x: (source.xp.argmax(x), x > 1, source.xp.sin(x)))
    where, above, sine = f(x)
    assert not where.requires_grad
    assert not above.requires_grad
    assert above.dtype == torch.bool
    (g,) = torch.autograd.grad(sine.sum(), x)
    torch.testing.assert_close(g, x.detach().cos())


def test_function_with_integer_results_only(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    y = wrap(lambda x: source.xp.argmax(x))(x)
    assert not y.requires_grad
    assert y.item() == x.argmax().item()


def test_function_of_integers_only(into_torch):
    _, wrap = into_torch
    y = wrap(lambda n: n * 3)(torch.tensor([1, 2]))
    assert not y.requires_grad
    assert y.tolist() == [3, 6]


def test_grad_fn_bears_the_name_of_the_function(into_torch):
    source, wrap = into_torch

    def circuit(x):
        return source.xp.sin(x)

    (x,) = leaves(X)
    assert "circuit" in wrap(circuit)(x).grad_fn.name()


@pytest.mark.parametrize("used", [0, 1, 2])
def test_one_of_several_outputs(into_torch, used):
    source, wrap = into_torch
    function = lambda xp, x, y: (xp.sin(x) * y, (x * x).sum(), y * y * y)
    xs = leaves(X, Y)
    expected = torch.autograd.grad(
        function(torch, *xs)[used].sum(), xs, allow_unused=True, materialize_grads=True
    )
    found = torch.autograd.grad(
        wrap(lambda *xs: function(source.xp, *xs))(*xs)[used].sum(),
        xs,
        allow_unused=True,
        materialize_grads=True,
    )
    torch.testing.assert_close(found, expected)


def test_an_output_without_cotangent_does_not_poison_the_gradient(into_torch):
    """sqrt has an infinite slope at zero: a zero cotangent would make a nan of it."""
    source, wrap = into_torch
    x = torch.tensor([0.0, 0.5, 2.0], requires_grad=True)
    square, _ = wrap(lambda x: (x * x, source.xp.sqrt(x)))(x)
    torch.testing.assert_close(torch.autograd.grad(square.sum(), x)[0], 2 * x.detach())


def test_input_that_the_used_output_does_not_depend_on(into_torch):
    """As in torch: it is unused, which is an error, or no gradient where that is allowed."""
    source, wrap = into_torch
    f = wrap(lambda x, y: (source.xp.sin(x), x * y))
    x, y = leaves(X, Y)
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(f(x, y)[0].sum(), y)
    assert torch.autograd.grad(f(x, y)[0].sum(), y, allow_unused=True) == (None,)
    f(x, y)[0].sum().backward()
    assert y.grad is None


def test_backward_of_several_outputs_one_after_the_other(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    a, b = wrap(lambda x: (source.xp.sin(x), source.xp.exp(x)))(x)
    a.sum().backward(retain_graph=True)
    torch.testing.assert_close(x.grad, x.detach().cos())
    b.sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos() + x.detach().exp())


def test_autocast_leaves_the_function_alone(into_torch):
    """The dtypes of the arguments decide; the casts happen around the function."""
    _, wrap = into_torch
    (x,) = leaves(np.outer(X, Y).astype("float32"))
    f = wrap(lambda x: x @ x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = f(x)
        half = f(x @ x)
    assert y.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    (expected,) = torch.autograd.grad((x @ x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)
    assert torch.autograd.grad(half.sum(), x)[0].dtype == torch.float32


def test_default_dtype_leaves_the_function_alone(into_torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    torch.set_default_dtype(torch.float64)
    try:
        y = wrap(source.xp.sin)(x)
        y.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (y.dtype, x.grad.dtype) == (torch.float32, torch.float32)


def test_anomaly_mode(into_torch):
    """Its check for nan passes where there is none, and speaks of ours where there is."""
    source, wrap = into_torch
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        wrap(source.xp.sin)(x).sum().backward()
        y = wrap(lambda x: source.xp.sqrt(x) * 0)(x).sum()
        with (
            pytest.warns(UserWarning, match="Error detected in"),
            pytest.raises(RuntimeError, match="returned nan values in the gradient of argument 0"),
        ):
            y.backward()


# Gradients that are not wanted are not computed: JAX's custom rules tell what ran.


@pytest.fixture
def jax2torch(jax):
    from bridge import jax2torch

    return lambda fn, **options: jax2torch(fn, **{"residuals": "save", **options})


@pytest.fixture
def ran():
    return []


@pytest.fixture
def tagged(jax, ran):
    """`tagged(name)`: the identity, whose backward notes that it runs."""

    def make(name):
        def note(g):
            ran.append(name)
            return np.asarray(g)

        @jax.custom_vjp
        def identity(x):
            return x

        def backward(_, g):
            # Pure, so that the compiler may leave it out where its result is not used.
            return (jax.pure_callback(note, jax.ShapeDtypeStruct(g.shape, g.dtype), g),)

        identity.defvjp(lambda x: (x, None), backward)
        return identity

    return make


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_gradient_of_an_input_without_requires_grad_is_not_computed(
    jax, jax2torch, tagged, ran, residuals
):
    first, second = tagged("first"), tagged("second")
    f = jax2torch(lambda x, y: (first(x) * jax.numpy.sin(second(y))).sum(), residuals=residuals)
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(Y)
    f(x, y).backward()
    assert ran == ["first"]
    torch.testing.assert_close(x.grad, y.sin())


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_backward_of_an_unused_output_is_not_computed(jax, jax2torch, tagged, ran, residuals):
    first, second = tagged("first"), tagged("second")
    f = jax2torch(
        lambda x: (first(jax.numpy.sin(x)), second(jax.numpy.exp(x))), residuals=residuals
    )
    (x,) = leaves(X)
    f(x)[0].sum().backward()
    assert ran == ["first"]
    torch.testing.assert_close(x.grad, x.detach().cos())


def test_no_backward_runs_under_no_grad(jax2torch, tagged, ran):
    (x,) = leaves(X)
    with torch.no_grad():
        jax2torch(tagged("only"))(x)
    assert not ran


@pytest.mark.parametrize("mode", ["no_grad", "requires_grad=False"])
def test_no_residuals_are_computed_where_no_gradient_is_wanted(jax, jax2torch, mode):
    """The forward rule of a custom_vjp runs for gradients only."""
    ran = []

    @jax.custom_vjp
    def sine(x):
        return jax.numpy.sin(x)

    def forward(x):
        jax.debug.callback(lambda: ran.append("residuals"))
        return jax.numpy.sin(x), jax.numpy.cos(x)

    sine.defvjp(forward, lambda cos, g: (g * cos,))
    f = jax2torch(sine)
    x = torch.tensor(X, requires_grad=mode == "no_grad")
    with torch.set_grad_enabled(mode != "no_grad"):
        f(x)
    jax.effects_barrier()
    assert not ran
    f(x.requires_grad_()).sum().backward()
    jax.effects_barrier()
    assert ran == ["residuals"]
