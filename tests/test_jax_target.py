"""Ops that are written by hand, under every transformation of JAX."""

import dataclasses
import functools
import gc
import itertools
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch
from jax import lax
from jax.interpreters import partial_eval

from bridge import ArgumentError
from bridge._calls import executor
from bridge._core.op import ForwardBackward, Op, Rules
from bridge._core.spec import ArraySpec
from tests.handmade import Handmade, exposed, into_jax
from tests.torch_in_jax import in_jax, in_torch

RANDOM = np.random.default_rng(0)
X = np.array([0.3, -1.2, 0.7])
T = np.array([0.5, 0.25, -2.0])
Z = np.array([0.3 + 0.4j, -1.2 + 0.1j, 0.7 - 0.9j])


pytestmark = pytest.mark.usefixtures("x64")


# Each makes of a function from vectors to vectors another.
VARIATIONS = {
    "jit": jax.jit,
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (T * x,))[1],
    "vjp": lambda f: lambda x: jax.vjp(f, x)[1](T.astype(x.dtype))[0],
    "vmap": lambda f: lambda x: jax.vmap(f, 1, 1)(jnp.stack([x, 2 * x], 1)) @ jnp.array([1.0, 2]),
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](T.astype(x.dtype)),
    "checkpoint": jax.checkpoint,
    "scan": lambda f: lambda x: lax.scan(lambda c, t: (f(c * t), f(c)), x, T)[1].sum(0),
    "cond": lambda f: lambda x: lax.cond(x[0].real > 0, f, lambda x: x, x),
    "map": lambda f: lambda x: lax.map(f, jnp.stack([x, -x]))[0],
}
FULL = {
    "grad": lambda f: jax.grad(lambda x: (f(x) ** 2).sum()),
    "value_and_grad": lambda f: jax.value_and_grad(lambda x: (f(x) ** 2).sum()),
    "jacfwd": jax.jacfwd,
    "jacrev": jax.jacrev,
    "hessian": jax.hessian,
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.jacfwd(f))),
    "while_loop": lambda f: (
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1])), (0, x))
    ),
    "per example": lambda f: (
        lambda x: jax.vmap(jax.grad(lambda x: f(x).sum()))(jnp.stack([x, 2 * x]))
    ),
    "linear transpose": lambda f: lambda x: jax.linear_transpose(jax.linearize(f, x)[1], x)(T),
}


def stacked(names):
    return lambda f: functools.reduce(lambda g, name: VARIATIONS[name](g), names, f)


def equal(mine, native, rtol=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), mine, native)


TWO = list(itertools.product(VARIATIONS, repeat=2))
THREE = list(itertools.product(["jvp", "vjp", "vmap"], repeat=3))
KEEP = pytest.mark.parametrize("keep", [False, True], ids=["recompute", "keep"])


@pytest.mark.parametrize("names", TWO, ids="-".join)
def test_two_transformations_equal_native(names):
    f = into_jax(in_torch, keep=True)
    equal(stacked(names)(f)(X), stacked(names)(in_jax)(jnp.asarray(X)))


@KEEP
@pytest.mark.parametrize("names", THREE, ids="-".join)
def test_three_transformations_equal_native(names, keep):
    f = into_jax(in_torch, keep=keep)
    equal(jax.jit(stacked(names)(f))(X), stacked(names)(in_jax)(jnp.asarray(X)))


@KEEP
@pytest.mark.parametrize("name", FULL)
def test_transformations_equal_native(name, keep):
    transform, f = FULL[name], into_jax(in_torch, keep=keep)
    native = transform(in_jax)(jnp.asarray(X))
    equal(transform(f)(jnp.asarray(X)), native)
    equal(jax.jit(transform(f))(jnp.asarray(X)), native)


COMPLEX = [
    *(("jvp",), ("vjp",), ("vmap", "vjp"), ("linearize", "vjp"), ("jvp", "vjp", "vmap")),
    *itertools.product(["jvp", "vjp"], repeat=2),
    *itertools.product(["jvp", "vjp"], repeat=3),
]


@KEEP
@pytest.mark.parametrize("names", COMPLEX, ids="-".join)
def test_complex_transformations_equal_native(names, keep):
    f = into_jax(in_torch, keep=keep)
    equal(jax.jit(stacked(names)(f))(Z), stacked(names)(in_jax)(jnp.asarray(Z)))


@KEEP
def test_a_real_function_of_complex_numbers_has_the_gradient_of_jax(keep):
    f = into_jax(lambda z: (z.abs() ** 2 * z.imag).sum(), name="f", keep=keep)
    native = lambda z: (jnp.abs(z) ** 2 * z.imag).sum()
    equal(jax.grad(f)(Z), jax.grad(native)(jnp.asarray(Z)))


def several_in_torch(x, n, w):
    return torch.sin(x) * w.sum(), n + 1, torch.cumsum(w, 0), x.sum() > 0


def several_in_jax(x, n, w):
    return jnp.sin(x) * w.sum(), n + 1, jnp.cumsum(w, 0), x.sum() > 0


REACH = [{0, 2}, {1}, {2}, {0}]
SEVERAL = (np.arange(3.0) + 0.5, np.arange(4), np.array([1.0, -2.5]))


@KEEP
@pytest.mark.parametrize("reach", [None, REACH], ids=["unknown", "known"])
def test_several_arguments_and_results(keep, reach):
    f = into_jax(several_in_torch, keep=keep, reach=reach)
    xs = tuple(map(jnp.asarray, SEVERAL))
    equal(jax.jit(f)(*xs), several_in_jax(*xs))
    mine, pull = jax.vjp(f, *xs)
    native_pull = jax.vjp(several_in_jax, *xs)[1]
    zero = lambda y: np.zeros(y.shape, jax.dtypes.float0)
    cotangents = (mine[0] * 2, zero(mine[1]), mine[2] - 1, zero(mine[3]))
    got, expected = pull(cotangents), native_pull(cotangents)
    assert got[1].dtype == expected[1].dtype == jax.dtypes.float0
    equal((got[0], got[2]), (expected[0], expected[2]))
    loss = lambda h: lambda x, w: (h(x, xs[1], w)[0] ** 2).sum() + h(x, xs[1], w)[2].prod()
    equal(
        jax.jit(jax.hessian(loss(f), (0, 1)))(xs[0], xs[2]),
        jax.hessian(loss(several_in_jax), (0, 1))(xs[0], xs[2]),
    )


def test_an_integer_argument_has_a_float0_tangent():
    f = into_jax(several_in_torch)
    tangents = (jnp.ones(3), np.zeros(4, jax.dtypes.float0), jnp.ones(2))
    xs = tuple(map(jnp.asarray, SEVERAL))
    mine, native = (jax.jvp(h, xs, tangents)[1] for h in (f, several_in_jax))
    assert [t.dtype for t in mine] == [t.dtype for t in native]
    equal((mine[0], mine[2]), (native[0], native[2]))


def test_a_tangent_of_another_dtype_is_refused():
    # In torch 2.13 the tangent of a float32 without axes, added to a number, is float64.
    f = into_jax(lambda x: (x / (1.5 + x * x),), name="f")
    with pytest.raises(ArgumentError, match=r"f\.jvp returns float64\[\], where float32\[\] was"):
        jax.jvp(f, (jnp.float32(0.3),), (jnp.float32(1),))


@KEEP
def test_a_result_that_nobody_uses_does_not_take_part(keep):
    # The logarithm has an infinite derivative at 0, which a cotangent of zeros makes NaN.
    f = into_jax(lambda x: (2 * x, torch.log(x)), name="f", keep=keep)
    for g in (jax.grad(lambda x: f(x)[0].sum()), jax.jit(jax.grad(lambda x: f(x)[0].sum()))):
        equal(g(jnp.zeros(2)), 2 * np.ones(2))


XS = RANDOM.normal(size=(5, 3))


@pytest.mark.parametrize(
    ("keep", "transform", "x", "expected"),
    [
        (True, jax.grad, X, ["f.forward", "f.backward"]),
        (False, jax.value_and_grad, X, ["f", "f.vjp"]),
        (True, lambda f: jax.vmap(jax.grad(f)), XS, ["f.forward.vmap", "f.backward.vmap"]),
    ],
    ids=["the backward pass gets what was kept", "it recomputes", "a batch is one call"],
)
def test_what_runs(keep, transform, x, expected):
    calls = Counter()
    f = into_jax(in_torch, name="f", keep=keep, calls=calls)
    g = jax.jit(transform(lambda x: f(x).sum()))
    g(x)
    calls.clear()
    equal(g(x), transform(lambda x: in_jax(x).sum())(jnp.asarray(x)))
    assert calls == Counter(expected)


def test_a_checkpoint_keeps_nothing_in_the_forward_pass():
    calls = Counter()
    f = into_jax(in_torch, name="f", keep=True, calls=calls)
    _, pull = jax.vjp(jax.checkpoint(f), X)
    assert calls == {"f": 1}
    pull(jnp.ones(3))
    assert calls == {"f": 1, "f.forward": 1, "f.backward": 1}


@pytest.mark.parametrize("live", [(), ([True],)], ids=["two", "three"])
def test_a_call_without_uses_is_dropped_with_two_arguments_or_three(live):
    """Newer releases of JAX hand a rule for dead code the live inputs too."""
    equation = jax.make_jaxpr(into_jax(in_torch, name="f"))(X).eqns[-1]
    rule = partial_eval.dce_rules[equation.primitive]
    assert rule([False], *live, equation) == ([False], None)
    assert rule([True], *live, equation) == ([True], equation)


def test_only_wanted_arguments_are_differentiated():
    f = into_jax(lambda x, w: x * w, name="f")
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: f(X, w).sum()))(X)
    results = [len(e.outvars) for e in jaxpr.eqns if "f.vjp" in str(e.params.get("function"))]
    assert results == [1]


def test_a_function_stands_in_a_jaxpr_by_its_name():
    f = into_jax(in_torch, keep=True)
    text = str(jax.make_jaxpr(jax.jit(jax.vmap(f)))(X[None]))
    assert "bridge_call[function=in_torch.vmap]" in text
    assert "0x" not in text
    forward = str(jax.make_jaxpr(lambda x: jax.jvp(f, (x,), (x,)))(X))
    assert "bridge_derivative[function=in_torch.jvp]" in forward


def test_shapes_are_known_without_a_call():
    calls = Counter()
    f = into_jax(in_torch, name="f", calls=calls)
    assert jax.eval_shape(f, X) == jax.ShapeDtypeStruct((3,), np.float64)
    assert not calls


def test_donation():
    f = jax.jit(into_jax(in_torch), donate_argnums=0)
    x = jnp.asarray(X)
    equal(f(x), in_jax(jnp.asarray(X)))
    assert x.is_deleted()


def test_without_jit():
    f = into_jax(in_torch)
    with jax.disable_jit():
        equal(jax.jit(jax.grad(lambda x: f(x).sum()))(X), jax.grad(lambda x: in_jax(x).sum())(X))


def test_an_eager_call_made_again_compiles_nothing(monkeypatch):
    grad = jax.grad(lambda x: f(x).sum())
    f = into_jax(in_torch, keep=True)
    first = grad(X)
    monkeypatch.setattr(jax, "jit", None)
    equal(grad(X), first)


def test_narrowed_halves_serve_some_of_the_results():
    """The backward half for fewer results comes from the same residuals, if the Op can tell it."""
    ran = []

    def half(name, call, results):
        def noted(*xs):
            ran.append(name)
            return call(*xs)

        return Op(
            name=name,
            framework="torch",
            call=noted,
            output_specs=results,
            rules=Rules(vmap=lambda *_: None),
        )

    spec = ArraySpec((3,), "float64")
    forward = half("forward", lambda x: (x.sin(), x.exp(), x.cos()), lambda *_: (spec,) * 3)
    both = half("both", lambda y, c, s, e: (c * s + y * e,), lambda *_: (spec,))
    first = half("first", lambda y, c, s: (c * s,), lambda *_: (spec,))
    split = ForwardBackward(
        strategy="save",
        forward=forward,
        backward=lambda needed: both,
        output_count=2,
        saved_primals=(),
        saved_outputs=(1,),
        backward_from=lambda needed, given: first if given == (0,) else None,
    )
    made = Handmade(lambda x: (x.sin(), x.exp()), "f", (spec,)).op()
    rules = dataclasses.replace(made.rules, forward_backward=lambda wanted, given: split)
    f = exposed(dataclasses.replace(made, rules=rules))
    x = jnp.asarray(X)
    equal(jax.grad(lambda x: f(x)[0].sum())(x), jnp.cos(x))
    equal(jax.grad(lambda x: sum(f(x)).sum())(x), jnp.cos(x) + jnp.exp(x))
    assert ran == ["forward", "first", "forward", "both"]
    equal(jax.grad(lambda x: f(x)[1].sum())(x), jnp.exp(x))
    assert ran[4:] == ["forward"]


def test_some_of_the_tangents_of_a_derivative():
    """A derivative that is differentiated by one of its tangents takes no zeros for the others."""
    f = into_jax(lambda x, w: torch.sqrt(x) * w, name="f")
    native = lambda x, w: jnp.sqrt(x) * w
    # The derivative of the square root at 0 is infinite, and times zero not a number.
    zero, one = jnp.zeros(2), jnp.ones(2)

    def again(h):
        push = jax.linearize(h, zero, one)[1]
        return jax.jvp(lambda t: push(zero, t), (one,), (one,))[1]

    equal(again(f), again(native))


def test_arrays_cross_outside_of_programs():
    runner = executor.make_executor("torch", "jax", device="cpu", compute_device="cpu")
    x = jnp.asarray(Z)
    made = Handmade(lambda x: (x * 2, x.abs()), "f", (ArraySpec((3,), "complex128"),)).op()
    got = runner.execute(made, [x])
    equal(got, (2 * x, jnp.abs(x)))
    assert got[0].dtype == np.complex128


def test_a_pullback_outlives_its_function():
    pull = jax.vjp(into_jax(in_torch, keep=True), X)[1]
    gc.collect()
    equal(pull(jnp.ones(3)), jax.vjp(in_jax, jnp.asarray(X))[1](jnp.ones(3)))
