"""Derivatives of functions without autodiff, in every order, against transformations of JAX."""

import itertools

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from bridge._sources.numpy.forms import function_form  # noqa: E402

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = [(2,), (3,)]
OUTPUT_SHAPES = [(2,), ()]


def function(x, y):
    """Two outputs, of one and of no axes, neither symmetric nor linear in anything."""
    first = jnp.sin(x * y[0]) * jnp.exp(0.3 * y[1]) + x[::-1] ** 2 * y.sum()
    return first, jnp.cos(x[0] * y[2]) * y[1] + x.prod()


def derivative(term, primals, values):
    """A term by JAX: <w, D^k f(x)[v_1, ..., v_r, .]>, with the last direction open or not."""
    fn = lambda *xs: function(*xs)[term.outnum]
    for argnum, v in values["tangents"]:
        fn = lambda *xs, f=fn, i=argnum, v=v: jax.jvp(
            lambda x: f(*xs[:i], x, *xs[i + 1 :]), (xs[i],), (v,)
        )[1]
    weigh = lambda y: y if term.cotangent is None else jnp.vdot(values["cotangent"], y)
    if term.argnum is None:
        return weigh(fn(*primals))
    return jax.grad(lambda *xs: weigh(fn(*xs)), argnums=term.argnum)(*primals)


def at_labels(x, axes, labels):
    """An input of one example of each batch."""
    for label, axis in axes:
        x = jnp.take(x, labels[label], axis)
    return x


def evaluate(form, arrays):
    """The results of a form, one combination of examples after the other."""
    results = []
    for result in form.results:
        kept = [label for label, _ in result.axes]
        shapes = SHAPES if result.kind == "gradient" else OUTPUT_SHAPES
        shape = shapes[result.position]
        total = np.zeros([*(form.sizes[n] for n in kept), *shape])
        for labels in itertools.product(*map(range, form.sizes)):
            xs = [
                at_labels(x, entry.axes, labels)
                for x, entry in zip(arrays, form.inputs, strict=True)
            ]
            for term in result.terms:
                values = {
                    "tangents": [(form.inputs[i].position, xs[i]) for i in term.tangents],
                    "cotangent": None if term.cotangent is None else xs[term.cotangent],
                }
                total[tuple(labels[n] for n in kept)] += derivative(term, xs[:2], values)
        for at, (_, axis) in reversed([*enumerate(result.axes)]):
            total = np.moveaxis(total, at, axis + at)
        results.append(total)
    return results


class Native:
    """The same steps in JAX: a function of flat arrays, and arrays for it."""

    def __init__(self, fn, inputs, random):
        self.fn, self.inputs, self.random = fn, inputs, random

    def new(self, shape):
        return jnp.asarray(self.random.normal(size=shape))

    def output_shapes(self):
        return [y.shape for y in jax.eval_shape(self.fn, *self.inputs)]

    def with_free(self, xs, argnums, outnums):
        """Some outputs as a function of some inputs."""

        def some(*free):
            given = dict(zip(argnums, free, strict=True))
            ys = self.fn(*[given.get(i, x) for i, x in enumerate(xs)])
            return [ys[i] for i in outnums]

        return some, [xs[i] for i in argnums]

    def extended(self, fn, shapes):
        return Native(fn, [*self.inputs, *map(self.new, shapes)], self.random)

    def vjp(self, argnums, outnums):
        count = len(self.inputs)

        def fn(*args):
            some, free = self.with_free(args[:count], argnums, outnums)
            return jax.vjp(some, *free)[1](list(args[count:]))

        shapes = self.output_shapes()
        return self.extended(fn, [shapes[i] for i in outnums])

    def jvp(self, argnums, outnums):
        count = len(self.inputs)

        def fn(*args):
            some, free = self.with_free(args[:count], argnums, outnums)
            return jax.jvp(some, tuple(free), tuple(args[count:]))[1]

        return self.extended(fn, [self.inputs[i].shape for i in argnums])

    def vmap(self, axes, size):
        inputs = [
            x if axis is None else self.new((*x.shape[:axis], size, *x.shape[axis:]))
            for x, axis in zip(self.inputs, axes, strict=True)
        ]
        return Native(jax.vmap(self.fn, axes), inputs, self.random)

    def step(self, kind):
        """Arguments of a step: some inputs, some outputs, and batches along any axis."""
        random = self.random
        if kind == "vmap":
            batched = [i == 0 or random.random() < 0.6 for i in range(len(self.inputs))]
            axes = [int(random.integers(0, x.ndim + 1)) for x in self.inputs]
            return [axis if b else None for axis, b in zip(axes, batched, strict=True)], 2
        counts = len(self.inputs), len(self.output_shapes())
        chosen = (random.choice(n, random.integers(1, n + 1), replace=False) for n in counts)
        return tuple(tuple(sorted(numbers.tolist())) for numbers in chosen)


STEPS = ["vjp", "jvp", "vmap"]
ORDERS = [order for n in range(4) for order in itertools.product(STEPS, repeat=n)]


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_every_order_of_steps_is_that_of_jax(order):
    random = np.random.default_rng([STEPS.index(kind) for kind in order])
    primals = [jnp.asarray(random.normal(size=shape)) for shape in SHAPES]
    form, native = function_form(2, 2), Native(function, primals, random)
    for kind in order:
        how = native.step(kind)
        form, native = getattr(form, kind)(*how), getattr(native, kind)(*how)
    found, expected = evaluate(form, native.inputs), native.fn(*native.inputs)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
