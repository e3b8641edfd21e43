"""Residuals of functions of JAX: what is saved, how often a function runs, what is cheaper."""

import functools

import pytest

torch = pytest.importorskip("torch")

from tests.residuals import W, X, expected_gradients, layer, recorded  # noqa: E402
from tests.tensors import leaves  # noqa: E402


@pytest.fixture
def jax2torch():
    pytest.importorskip("jax")
    from bridge import jax2torch

    return functools.partial(jax2torch, residuals="save")


def counting(jax, counts, name):
    """The identity, which notes when it is executed, not when it is traced."""

    def identity(x):
        jax.debug.callback(lambda: counts.append(name))
        return x

    return identity


def run_counted(jax2torch, residuals):
    """How often a function runs for its forward, and then for its backward."""
    import jax

    counts = []
    tag = counting(jax, counts, "forward")
    x, w = leaves(X, W)
    f = jax2torch(lambda x, w: layer(jax.numpy, tag(x), w), residuals=residuals)
    loss = f(x, w).square().sum()
    jax.effects_barrier()
    forward = len(counts)
    found = torch.autograd.grad(loss, (x, w))
    jax.effects_barrier()
    torch.testing.assert_close(found, expected_gradients(x, w))
    return forward, len(counts) - forward


def test_backward_does_not_run_the_function_again(jax2torch):
    assert run_counted(jax2torch, "save") == (1, 0)


def test_recomputing_backward_runs_the_function_again(jax2torch):
    assert run_counted(jax2torch, "recompute") == (1, 1)


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_two_outputs_in_a_loop_is_not_run_again(jax2torch, used):
    """Once it is known which outputs have gradients, the others cost nothing."""
    import jax

    counts = []
    tag = counting(jax, counts, "forward")
    f = jax2torch(lambda x: (jax.numpy.sin(tag(x)), jax.numpy.exp(x)))
    for _ in range(3):
        (x,) = leaves(X)
        counts.clear()
        f(x)[used].sum().backward()
        jax.effects_barrier()
    assert len(counts) == 1
    torch.testing.assert_close(x.grad, (x.detach().cos(), x.detach().exp())[used])


def test_outputs_used_in_turn_keep_their_gradients(jax2torch):
    """What an earlier backward asked for says nothing about what this one gets."""
    import jax.numpy as jnp

    f = jax2torch(lambda x: (jnp.sin(x), jnp.exp(x)))
    (x,) = leaves(X)
    sine, exponential = x.detach().cos(), x.detach().exp()
    cases = [((0,), sine), ((1,), exponential), ((0, 1), sine + exponential)]
    for used, expected in (*cases, *reversed(cases), *cases):
        outputs = f(x)
        (found,) = torch.autograd.grad(sum(outputs[i].sum() for i in used), x)
        torch.testing.assert_close(found, expected)


def test_recompute_keeps_the_inputs_only(jax2torch):
    import jax.numpy as jnp

    x, w = leaves(X, W)
    with recorded() as saved:
        jax2torch(lambda *xs: layer(jnp, *xs), residuals="recompute")(x, w)
    assert [s.data_ptr() for s in saved] == [x.data_ptr(), w.data_ptr()]


def test_recompute_gives_the_same_gradient(jax2torch):
    import jax.numpy as jnp

    x, w = leaves(X, W)
    loss = jax2torch(lambda *xs: layer(jnp, *xs), residuals="recompute")(x, w).square().sum()
    torch.testing.assert_close(torch.autograd.grad(loss, (x, w)), expected_gradients(x, w))


def test_unknown_way_to_keep_residuals(jax2torch):
    with pytest.raises(ValueError, match=r'residuals=.*neither "auto", "save" nor "recompute"'):
        jax2torch(lambda x: x, residuals="drop")


def test_jax_checkpoint_keeps_less(jax2torch):
    """jax.checkpoint inside the function decides what is kept, as in JAX."""
    import jax
    import jax.numpy as jnp

    deep = lambda x: jnp.sin(jnp.sin(jnp.sin(jnp.sin(x))))
    found, kept = [], []
    for fn in (deep, jax.checkpoint(deep)):
        (x,) = leaves(X)
        with recorded() as saved:
            y = jax2torch(lambda x, fn=fn: fn(x).sum())(x)
        kept.append(len(saved))
        found += torch.autograd.grad(y, x)
    assert kept[1] == 1 < kept[0]
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(
    ("policy", "residual_size"),
    [("nothing_saveable", 0), ("dots_saveable", 20), ("everything_saveable", 40)],
)
def test_a_policy_of_jax_checkpoint_chooses_what_is_kept(jax2torch, policy, residual_size):
    """The product has 20 numbers, and so has the cosine of each of the two sines."""
    import jax
    import jax.numpy as jnp

    x, w = leaves(X, W)
    fn = lambda x, w: jnp.sin(jnp.sin(x @ w))
    with recorded() as saved:
        y = jax2torch(jax.checkpoint(fn, policy=getattr(jax.checkpoint_policies, policy)))(x, w)
    known = {t.data_ptr() for t in (x, w, y)}
    assert sum(s.numel() for s in saved if s.data_ptr() not in known) == residual_size
    found = torch.autograd.grad(y.square().sum(), (x, w))
    expected = torch.autograd.grad((x @ w).sin().sin().square().sum(), (x, w))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["typed", "raw"])
def test_random_key_among_the_residuals(jax2torch, kind):
    """Dropout: the mask of the backward is that of the forward."""
    import jax
    import jax.numpy as jnp

    def dropout(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x * x, 0.0)

    key = jax.random.key(3) if kind == "typed" else jax.random.PRNGKey(3)
    (x,) = leaves(X)
    y = jax2torch(dropout)(x, key)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert 0 < (y == 0).sum() < y.numel()
    torch.testing.assert_close(g, torch.where(y == 0, 0.0, 2 * x.detach()))


def test_residual_that_is_a_closed_over_constant_is_not_saved(jax2torch):
    import jax.numpy as jnp

    weights = jnp.asarray(W)
    (x,) = leaves(X)
    with recorded() as saved:
        y = jax2torch(lambda x: x @ weights)(x)
    assert {s.data_ptr() for s in saved} <= {x.data_ptr()}
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor(W).sum(1).expand(5, 3))


def test_int64_residuals_outside_of_64_bit_mode(jax2torch):
    """An index that is an input and one that is computed, both needed by the backward."""
    import jax.numpy as jnp

    index = torch.tensor([2, 0, 2, 1])
    (x,) = leaves(X)
    y = jax2torch(lambda x, i: x[i] * x[jnp.argsort(i)])(x, index)
    (expected,) = torch.autograd.grad((x[index] * x[index.argsort(stable=True)]).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)


AUTO = {
    "a few numbers": (lambda jnp, x: jnp.sin(x) * x, (16,), "recompute"),
    "a deep function of many": (
        lambda jnp, x: jnp.sin(jnp.sin(jnp.sin(jnp.sin(x) @ x.T) @ x)),
        (300, 300),
        "save",
    ),
}


def circuit(jnp, qubits, weights, angles):
    """Expectations of a circuit on `qubits`, layers of rotations and a ring of entanglers."""
    state = jnp.zeros((2,) * qubits, "complex128").at[(0,) * qubits].set(1)
    state = jnp.broadcast_to(state, (len(angles), *state.shape))
    first = jnp.zeros(2**qubits)
    for rotations in weights:
        for wire in range(qubits):
            angle = rotations[wire] + angles[:, wire] / 2
            cosine, sine = jnp.cos(angle), 1j * jnp.sin(angle)
            gate = jnp.array([[cosine, sine], [sine, cosine]])
            state = jnp.einsum("ijb,b...j->b...i", gate, jnp.moveaxis(state, wire + 1, -1))
            state = jnp.moveaxis(state, -1, wire + 1)
        sign = (-1.0) ** (jnp.arange(2**qubits) & 1)
        state = state * sign.reshape((1,) + (2,) * qubits)
    chances = (state * state.conj()).real.reshape(len(angles), -1)
    return jnp.stack([chances @ (first + i) for i in range(qubits)], axis=-1)


def perceptron(jnp, x, *weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


CHOICES = {
    **{
        f"{summary} of {n} qubits": (
            lambda jnp, *xs, n=n, k=k: getattr(circuit(jnp, n, *xs), "mean" if k else "squeeze")(),
            "float64",
            [(4, n), (32, n)],
            way,
        )
        for n in (4, 8, 12)
        for summary, k, way in (("loss", True, "gradient"), ("expectations", False, "recompute"))
    },
    "small perceptron": (perceptron, "float32", [(16, 32)] + 2 * [(32, 32)], "recompute"),
    "large perceptron": (perceptron, "float32", [(256, 512)] + 3 * [(512, 512)], "save"),
    "loss of a large perceptron": (
        lambda jnp, *xs: perceptron(jnp, *xs).mean(),
        "float32",
        [(256, 512)] + 3 * [(512, 512)],
        "gradient",
    ),
    "loss of a large perceptron of one sample": (
        lambda jnp, *xs: perceptron(jnp, *xs).mean(),
        "float32",
        [(1, 2048)] + 3 * [(2048, 2048)],
        "gradient",
    ),
    "many arrays": (
        lambda jnp, *xs: sum(jnp.sin(x) * x for x in xs),
        "float32",
        200 * [(16,)],
        "recompute",
    ),
    "many elements": (lambda jnp, x: jnp.sin(x) * x, "float32", [(1000, 1000)], "recompute"),
    "a polynomial of many": (
        lambda jnp, x: ((x * x + 1) * x + 2) * x,
        "float32",
        [(500, 500)],
        "recompute",
    ),
}


@pytest.mark.parametrize(("function", "dtype", "shapes", "way"), CHOICES.values(), ids=CHOICES)
def test_the_model_chooses_what_was_measured_to_be_fastest(function, dtype, shapes, way):
    """By CPU time on one core; nothing is compiled here."""
    jax = pytest.importorskip("jax")
    from bridge import _registry
    from bridge._core.spec import ArraySpec

    def flat(*xs):
        return [function(jax.numpy, *xs)]

    flat.written = function
    primals = tuple(ArraySpec(shape, dtype) for shape in shapes)
    op = _registry.source("jax").make_op(
        flat,
        name="f",
        primals=primals,
        argument_names=[f"xs[{i}]" for i in range(len(shapes))],
        jit=True,
        x64=None,
        residuals="auto",
    )
    op.derive("forward_backward", (0,) if len(shapes) < 3 else tuple(range(1, len(shapes))), (0,))
    assert op.used_strategies() == {way}


@pytest.mark.parametrize(("function", "shape", "way"), AUTO.values(), ids=AUTO)
def test_auto_takes_the_cheaper_way_and_says_which(function, shape, way):
    jnp = pytest.importorskip("jax.numpy")
    from bridge import jax2torch

    there = jax2torch(lambda x: function(jnp, x))
    assert "derivatives" not in repr(there)
    x = torch.empty(shape).uniform_(-0.1, 0.2).requires_grad_()
    with recorded() as saved:
        y = there(x)
    assert repr(there).endswith(f"derivatives so far: {way}>")
    assert (len(saved) > 1) == (way == "save")
    given = torch.randn(y.shape)
    expected = torch.autograd.grad(function(torch, x), x, given)
    torch.testing.assert_close(torch.autograd.grad(y, x, given), expected, rtol=1e-3, atol=1e-3)
