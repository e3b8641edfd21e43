"""How often functions on NumPy arrays are evaluated, counted by the functions themselves."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap  # noqa: E402

from bridge import OptionError, numpy2torch  # noqa: E402
from bridge.rules import (  # noqa: E402
    SPSA,
    ComplexStep,
    FiniteDifference,
    Jacobian,
    Jvp,
    ParameterShift,
    Vjp,
)

FORWARD = FiniteDifference(accuracy=1, strategy="forward")


class Counted:
    """A function that keeps the arguments of its calls, each with one leading axis for points."""

    def __init__(self, fn, *, vectorized=False):
        self.__name__ = "counted"
        self._fn, self._vectorized, self.calls = fn, vectorized, []

    def __call__(self, *xs):
        self.calls.append([x.copy() if self._vectorized else x[None].copy() for x in xs])
        return self._fn(*xs)

    @property
    def points(self):
        return sum(len(xs[0]) for xs in self.calls)

    def counts(self):
        """The points and calls since the last time."""
        found = self.points, len(self.calls)
        self.calls.clear()
        return found


def far(*shape):
    """Angles that random numbers between 0 and 1 are not, nor shifts of these by two."""
    return torch.tensor(np.random.default_rng(3).uniform(20, 30, shape))


def many(x):
    return np.stack([np.sin(x).sum(-1), np.cos(x[..., 0] + 2 * x[..., 1])], -1)


@pytest.mark.parametrize("vectorized", [False, True])
def test_a_gradient_takes_two_values_for_each_angle_and_example(vectorized):
    fn = Counted(lambda x: np.sin(x).sum(-1), vectorized=vectorized)
    f = numpy2torch(fn, gradient=ParameterShift(), vectorized=vectorized)
    x = far(5, 3).requires_grad_()
    y = vmap(f)(x)
    assert fn.counts() == (5, 1 if vectorized else 5)
    y.square().mean().backward()
    assert fn.counts() == (2 * 3 * 5, 1 if vectorized else 30)
    assert (f.evaluations, f.calls) == ((35, 2) if vectorized else (35, 35))


def test_shared_weights_are_shifted_in_the_same_call():
    fn = Counted(lambda x, w: np.sin(x).sum(-1) * np.cos(w).sum(-1), vectorized=True)
    f = numpy2torch(fn, gradient=ParameterShift(), vectorized=True)
    x, w = far(7, 2).requires_grad_(), far(3).requires_grad_()
    y = vmap(f, (0, None))(x, w)
    assert fn.counts() == (7, 1)
    y.sum().backward()
    assert fn.counts() == (2 * (3 + 2) * 7, 1)


def test_arguments_without_gradient_are_not_shifted():
    fn = Counted(lambda x, w: np.sin(x).sum() + w.sum())
    f = numpy2torch(fn, gradient=ParameterShift())
    f(far(3).requires_grad_(), far(50)).backward()
    assert fn.counts() == (1 + 6, 7)
    grad(f)(far(3), far(50))
    assert fn.counts() == (1 + 6, 7)


def test_arguments_that_autograd_does_not_ask_for_are_not_shifted():
    fn = Counted(lambda x, w: np.sin(x).sum() + np.sin(w).sum())
    x, w = far(3).requires_grad_(), far(50).requires_grad_()
    torch.autograd.grad(numpy2torch(fn, gradient=ParameterShift())(x, w), x)
    assert fn.counts() == (1 + 6, 7)


@pytest.mark.parametrize("jacobian", [jacrev, jacfwd])
@pytest.mark.parametrize(
    ("rule", "points"), [(ParameterShift(), 8), (ParameterShift((1, 2)), 16), (SPSA(5), 10)]
)
def test_a_jacobian_takes_no_more_points_than_a_gradient(jacobian, rule, points):
    fn = Counted(many, vectorized=True)
    jacobian(numpy2torch(fn, gradient=rule, vectorized=True))(far(4))
    forward_directions = isinstance(rule, SPSA) and jacobian is jacfwd
    assert fn.counts() == (1 + (8 if forward_directions else points), 2)


def functional(f):
    return lambda x: torch.autograd.functional.hessian(f, x, vectorize=True)


@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize(
    ("second", "more"),
    [(functional, 0), (lambda f: jacrev(jacrev(f)), 0), (hessian, 1)],
    ids=["functional", "reverse", "hessian"],
)
def test_a_hessian_takes_distinct_points_once(p, second, more):
    fn = Counted(lambda x: np.sin(x).prod(-1), vectorized=True)
    f = numpy2torch(fn, gradient=ParameterShift(), vectorized=True)
    second(f)(far(p))
    points = 1 + p + 4 * p * (p - 1) // 2
    assert fn.points == points + (1 + more) * 2 * p + 1
    shapes = [len(xs[0]) for xs in fn.calls]
    assert max(shapes) == points  # in one call
    hessian_points = next(xs[0] for xs in fn.calls if len(xs[0]) == points)
    assert len(np.unique(hessian_points.round(6) % (2 * np.pi), axis=0)) == points


@pytest.mark.parametrize(
    ("rule", "points"),
    [
        (FiniteDifference(), 2),
        (FiniteDifference(accuracy=4), 4),
        (ComplexStep(), 1),
        (SPSA(), 2),
        (ParameterShift(), 80),
    ],
)
def test_forward_mode(rule, points):
    fn = Counted(lambda x: x.sum() * 2.0, vectorized=False)
    jvp(numpy2torch(fn, gradient=rule), (far(40),), (far(40),))
    assert fn.counts() == (1 + points, 1 + points)


@pytest.mark.parametrize(
    ("rule", "points"),
    [(FORWARD, 3), (FiniteDifference(), 6), (ComplexStep(), 3), (SPSA(2), 4)],
)
def test_gradients_in_reverse_mode(rule, points):
    fn = Counted(lambda x: (x * x).sum())
    y = numpy2torch(fn, gradient=rule)(far(3).requires_grad_())
    assert fn.counts() == (1, 1)
    y.backward()
    assert fn.counts() == (points, points)


def test_noisy_functions_do_not_reuse_values():
    calls = []

    def fn(x, *, rng):
        calls.append(x)
        return x.sum() + rng.normal()

    numpy2torch(fn, gradient=FORWARD)(far(3).requires_grad_()).backward()
    assert len(calls) == 1 + 3 + 1


def own_rules(seen):
    return {
        "vjp": Vjp(lambda p, c, y: (seen.append(y), c * np.cos(p[0]))[1]),
        "jvp": Jvp(lambda p, t: (seen.append(t), t[0] * np.cos(p[0]))[1]),
        "jacobian": Jacobian(lambda x: (seen.append(x), np.cos(x)[:, None] * np.eye(3))[1]),
    }


@pytest.mark.parametrize(
    ("name", "reverse", "forward", "both"),
    [("vjp", 1, 3, 3), ("jvp", 3, 1, 3), ("jacobian", 1, 1, 1)],
)
def test_own_derivatives(name, reverse, forward, both):
    seen, fn, x = [], Counted(np.sin), far(3)
    f = numpy2torch(fn, gradient=own_rules(seen)[name])
    f(x.clone().requires_grad_()).sum().backward()
    assert (fn.counts(), len(seen)) == ((1, 1), reverse)
    seen.clear()
    jvp(f, (x,), (x,))
    assert len(seen) == forward
    seen.clear()
    torch.testing.assert_close(jacrev(f)(x), torch.diag(x.cos()))
    assert len(seen) == both


OUTPUTS = {
    "backward": lambda f, x: f(x.requires_grad_()).sum().backward(),
    "grad": lambda f, x: grad(lambda x: f(x).sum())(x),
    "batch": lambda f, x: torch.vmap(f)(x.requires_grad_()[None]).sum().backward(),
    "batched": lambda f, x: jacrev(f)(x),
    "create_graph": lambda f, x: f(x.requires_grad_()).sum().backward(create_graph=True),
    "compiled": lambda f, x: torch.compile(f, fullgraph=True)(x.requires_grad_()).sum().backward(),
}


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("way", OUTPUTS)
def test_own_gradients_get_the_outputs_that_were_returned(way):
    torch.compiler.reset()
    seen, calls = [], []

    def fn(x):
        calls.append(np.sin(x) + len(calls))  # as a device with noise of its own
        return calls[-1]

    OUTPUTS[way](numpy2torch(fn, gradient=own_rules(seen)["vjp"], out=np.empty(3)), far(3))
    assert seen[0].tolist() == calls[0].tolist()
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("way", OUTPUTS)
def test_differences_use_the_value_that_was_returned(way):
    torch.compiler.reset()
    fn = Counted(np.sin)
    OUTPUTS[way](numpy2torch(fn, gradient=FORWARD, out=np.empty(3)), far(3))
    assert fn.counts() == (1 + 3, 4)


@pytest.mark.parametrize(
    "transform",
    [
        grad,
        jacfwd,
        hessian,
        functional,
        lambda f: lambda x: vmap(grad(f))(x.expand(2, -1)),
        lambda f: lambda x: jvp(f, (x,), (x,)),
        lambda f: grad(lambda x: grad(f)(x).sum()),
        lambda f: lambda x: f(x.requires_grad_()).backward(),
    ],
)
def test_no_values_are_made_up(transform):
    fn, x = Counted(lambda x: np.sin(x).sum()), far(2)
    transform(numpy2torch(fn, gradient=ParameterShift()))(x)
    assert fn.calls
    assert all((np.abs(point - x.detach().numpy()) < 4).all() for (point,) in fn.calls)


def test_results_that_are_told_need_no_values_in_a_compiler():
    torch.compiler.reset()
    fn = Counted(np.sin)
    f = numpy2torch(fn, gradient=ParameterShift(), out=np.empty(3))
    torch.compile(lambda x: f(x).sum(), fullgraph=True)(far(3).requires_grad_()).backward()
    assert fn.counts() == (1 + 6, 7)


def test_points_come_in_one_order_with_equal_bits():
    fn, x = Counted(lambda x: np.sin(x).sum()), far(3).requires_grad_()
    f = numpy2torch(fn, gradient=ParameterShift((1, 2)))
    rows = []
    for _ in range(2):
        f(x).backward()
        rows.append([point.tobytes() for (point,) in fn.calls])
        fn.counts()
    assert rows[0] == rows[1]
    assert len({*rows[0]}) == len(rows[0]) == 13


def test_too_many_points_are_refused_before_any():
    fn = Counted(lambda x: np.sin(x).sum())
    f, x = numpy2torch(fn, gradient=ParameterShift(), max_points=200), far(100)
    jacrev(f)(x)
    assert fn.counts() == (201, 201)
    y = functional(f)
    with pytest.raises(OptionError, match="19901 points, and max_points=200"):
        y(x)
    assert fn.points == 201


def test_values_are_no_derivatives():
    f = numpy2torch(np.sin, max_points=2)
    assert vmap(f)(far(5, 1)).shape == (5, 1)
