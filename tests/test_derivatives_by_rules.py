"""Derivatives of functions without autodiff by every rule, in every order, against JAX."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from bridge._core.evaluation_counters import EvaluationCounters  # noqa: E402
from bridge._core.spec import ArraySpec  # noqa: E402
from bridge._sources.numpy.black_box import BlackBox  # noqa: E402
from bridge._sources.numpy.evaluation import Evaluation  # noqa: E402
from bridge._sources.numpy.forms import function_form  # noqa: E402
from bridge._sources.numpy.planner import Planner  # noqa: E402
from bridge._sources.numpy.point_caller import PointCaller  # noqa: E402
from bridge.rules import (  # noqa: E402
    ComplexStep,
    FiniteDifference,
    Jacobian,
    Jvp,
    ParameterShift,
    Vjp,
)
from tests.test_derivative_forms import ORDERS, SHAPES, STEPS, Native  # noqa: E402

pytestmark = pytest.mark.usefixtures("x64")

DIFFERENCE = FiniteDifference(accuracy=6)


def angles(xp):
    """Two outputs that are Fourier sums of frequency 1 in every element of x and y."""

    def function(x, y):
        first = xp.sin(x + y[0]) * xp.cos(y[1]) + xp.cos(x[::-1]) * xp.sin(y[2])
        return first, xp.cos(x[0] + y[2]) * xp.sin(y[1]) * xp.sin(x[1])

    return function


def smooth(xp):
    """Two outputs, of one and of no axes, neither symmetric nor linear in anything."""

    def function(x, y):
        first = xp.sin(x * y[0]) * xp.exp(0.3 * y[1]) + x[::-1] ** 2 * y.sum()
        return first, xp.cos(x[0] * y[2]) * y[1] + x.prod()

    return function


def single(xp):
    return lambda x, y: (smooth(xp)(x, y)[0],)


class Trees:
    """Arguments that are arrays."""

    def unflatten(self, arrays):
        return tuple(arrays), {}

    def primals(self, arrays):
        return tuple(arrays)

    def match(self, tree, name):
        return dict(enumerate(tree))


class Flat:
    """A function of two arrays, with a tuple of results."""

    checks_dtypes, keeps_structure, arguments = False, True, Trees()

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, *arrays):
        return list(self.fn(*arrays))

    def check_result_specs(self, specs):
        pass

    def unflatten_results(self, outputs):
        return tuple(outputs)

    def flatten_results(self, tree, name):
        return list(tree)


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def vjp_of(fn):
    return Vjp(lambda xs, ws, ys: as_numpy(jax.vjp(fn, *xs)[1](ws)), then=DIFFERENCE)


def jvp_of(fn):
    return Jvp(lambda xs, vs: as_numpy(jax.jvp(fn, xs, vs)[1]), then=DIFFERENCE)


def jacobian_of(fn):
    jacobian = jax.jacobian(lambda *xs: fn(*xs)[0], argnums=(0, 1))
    return Jacobian(lambda *xs: as_numpy(jacobian(*xs)), then=DIFFERENCE)


def mixed(fn):
    return [vjp_of(fn), FiniteDifference(accuracy=6)]


def different_then(fn):
    """Frequency 1 in x, and 1 and 2 in y, each in the `then` of its own rule."""
    vjp = vjp_of(fn).fn
    return [Vjp(vjp, then=ParameterShift()), Vjp(vjp, then=ParameterShift((1, 2)))]


def two_frequencies(xp):
    def function(x, y):
        first = xp.sin(x) * xp.cos(2 * y[1]) + xp.cos(x[::-1]) * xp.sin(y[2])
        return first, xp.cos(x[0]) * xp.sin(2 * y[1] + y[0]) * xp.sin(x[1])

    return function


CASES = {
    "shifts": (angles, lambda fn: ParameterShift(), 1e-12),
    "differences": (smooth, lambda fn: DIFFERENCE, 1e-6),
    "forward differences": (
        smooth,
        lambda fn: FiniteDifference(accuracy=4, strategy="forward"),
        1e-3,
    ),
    "complex steps": (smooth, lambda fn: ComplexStep(then=DIFFERENCE), 1e-8),
    "vjp": (smooth, vjp_of, 1e-8),
    "jvp": (smooth, jvp_of, 1e-8),
    "jacobian": (single, jacobian_of, 1e-8),
    "vjp and differences": (smooth, mixed, 1e-5),
    "vjp, each with its then": (two_frequencies, different_then, 1e-9),
}


def black_box(fn, rules, *, vectorized):
    primals = tuple(ArraySpec(shape, "float64") for shape in SHAPES)
    caller = PointCaller(
        name="f",
        vectorized=vectorized,
        batch_size=None,
        executor=None,
        counters=EvaluationCounters(),
    )
    return BlackBox(
        flat_fn=Flat(fn),
        name="f",
        primals=primals,
        argument_names=["x", "y"],
        rules=rules,
        caller=caller,
    )


# All orders of three steps take minutes: of most rules they are among the slow tests.
SLOW = {case for case in CASES if case not in ("shifts", "vjp and differences")}
RUNS = [
    pytest.param(
        case,
        order,
        id=f"{case}: {' '.join(order)}",
        marks=[pytest.mark.slow] if case in SLOW and len(order) == 3 else [],
    )
    for case in CASES
    for order in ORDERS
]


@pytest.mark.parametrize(("case", "order"), RUNS)
def test_every_order_by_every_rule_is_that_of_jax(case, order):
    make, make_rules, tolerance = CASES[case]
    random = np.random.default_rng([STEPS.index(kind) for kind in order])
    primals = [jnp.asarray(random.normal(size=shape)) for shape in SHAPES]
    native, count = Native(make(jnp), primals, random), len(make(np)(*primals))
    form = function_form(2, count)
    for kind in order:
        how = native.step(kind)
        form, native = getattr(form, kind)(*how), getattr(native, kind)(*how)
    rules = make_rules(make(jnp))
    box = black_box(make(np), rules if isinstance(rules, list) else [rules] * 2, vectorized=False)
    assert len(box.outputs) == count  # found before derivatives ask for it
    evaluation = Evaluation(form, Planner(form, box).plan(), box, [*map(np.asarray, native.inputs)])
    results = evaluation.contract(evaluation.evaluate_points())
    for actual, expected in zip(results, native.fn(*native.inputs), strict=True):
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)
