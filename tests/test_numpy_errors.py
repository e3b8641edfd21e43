"""Errors of functions on NumPy arrays, and numbers that were wrong in silence."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import jacrev, jvp, vmap  # noqa: E402

from bridge import ArgumentError, NoRuleError, OptionError, numpy2torch  # noqa: E402
from bridge.rules import (  # noqa: E402
    ComplexStep,
    FiniteDifference,
    Jacobian,
    Jvp,
    ParameterShift,
    Vjp,
)

X = (0.3, 1.1)


def leaf(x=X, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype, requires_grad=True)


def sums(x):
    return np.sin(x).sum()


def refuses(condition):
    def fn(x):
        if condition(x):
            raise ConnectionError("job failed")
        return np.sin(x).sum()

    return fn


# Exceptions of the function.


def note_of(fn, rule, x, wrap=lambda f: f):
    y = wrap(numpy2torch(fn, gradient=rule))(x)
    with pytest.raises(ConnectionError, match="job failed") as caught:
        y.sum().backward()
    return "".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (ParameterShift(), r"x[1] shifted by 1.5708"),
        (FiniteDifference(h=0.25), r"x[1] shifted by 0.25 max(1, |x|)"),
    ],
)
def test_exceptions_tell_the_element_and_the_shift(rule, text):
    assert text in note_of(refuses(lambda x: x[1] > 1.2), rule, leaf())


def test_exceptions_tell_the_element_of_arguments_with_more_axes():
    x = leaf([[0.1, 0.2, 0.3], [0.4, 0.5, 1.1]])
    note = note_of(refuses(lambda x: x[1, 2] > 1.2), ParameterShift((2,)), x)
    assert "x[1, 2] shifted by 0.785398" in note


def test_exceptions_tell_the_element_in_batches():
    x = leaf([[0.3, 0.4], [0.3, 1.1]])
    assert "x[1] shifted by 1.5708" in note_of(
        refuses(lambda x: x[1] > 2), ParameterShift(), x, vmap
    )


def test_exceptions_of_values_have_no_notes_on_derivatives():
    with pytest.raises(ConnectionError) as caught:
        numpy2torch(refuses(lambda x: True), gradient=ParameterShift())(leaf())
    assert not any("derivative" in note for note in getattr(caught.value, "__notes__", []))


def test_after_a_failure_a_function_resumes():
    fails, seen = [True], {}

    def fn(x):
        point = x.tobytes()
        if point not in seen:
            if len(seen) == 3 and fails.pop():
                raise ConnectionError("job failed")
            seen[point] = np.sin(x).sum()
        return seen[point]

    f, x = numpy2torch(fn, gradient=ParameterShift()), leaf()
    y = f(x)
    with pytest.raises(ConnectionError):
        y.backward(retain_graph=True)
    fails.append(False)
    y.backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
    assert len(seen) == 5


# Results.


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (lambda x: torch.ones(2), "result of fn is a torch Tensor"),
        (lambda x: "text", "result of fn is a str"),
        (lambda x: {1, 2}, "result of fn is a set"),
        (lambda x: np.array([object()]), "result of fn .* dtype object"),
        (lambda x: np.array(["a"]), "result of fn .* dtype <U1"),
        (lambda x: x.astype("longdouble"), "result of fn .* float128"),
        (lambda x: np.ma.array(x, mask=[0, 1]), "result of fn .* masked array"),
    ],
)
def test_results_that_are_no_arrays_of_numbers(result, text):
    def fn(x):
        return result(x)

    with pytest.raises(ArgumentError, match=text):
        numpy2torch(fn)(leaf())


@pytest.mark.parametrize("result", [sums, lambda x: np.sin(x)[:, :, None].sum(0)])
def test_vectorized_functions_return_the_leading_axis(result):
    def fn(x):
        return result(x)

    with pytest.raises(ArgumentError, match="fn is vectorized, but its result 0 is float64"):
        vmap(numpy2torch(fn, vectorized=True))(torch.ones(3, 2, dtype=torch.float64))


def test_shapes_do_not_change_between_points():
    def fn(x):
        return np.zeros(2 if x[0] > 1 else 1)

    y = numpy2torch(fn, gradient=ParameterShift())(leaf())
    with pytest.raises(ArgumentError, match=r"fn returned .*\[2\].*x\[0\] shifted by 1.5708"):
        y.sum().backward()


def test_shapes_do_not_change_between_calls():
    def fn(x):
        return np.zeros(2 if x[0] > 1 else 1)

    f = numpy2torch(fn)
    f(leaf())
    with pytest.raises(ArgumentError, match=r"fn returned \(float64\[2\]\).*\(float64\[1\]\)"):
        f(leaf((2.0, 2.0)))


@pytest.mark.parametrize("out", [np.empty(3), np.empty(2, np.float32), lambda x: x[:1]])
def test_results_unlike_those_that_were_told(out):
    def fn(x):
        return np.sin(x)

    with pytest.raises(ArgumentError, match=r"fn returned \(float64\[2\]\)"):
        numpy2torch(fn, out=out)(leaf())


# Rules and options.


def test_derivatives_without_a_rule():
    def fn(x, y):
        return x * y

    x, y = leaf(), leaf()
    f = numpy2torch(fn, gradient={"x": FiniteDifference()})
    torch.testing.assert_close(f(x, y), x * y)
    with pytest.raises(NoRuleError, match=r"argument y of fn has no gradient rule.*`gradient=`"):
        f(x.detach(), y).sum().backward()
    f(x, y.detach()).sum().backward()
    torch.testing.assert_close(x.grad, y.detach(), atol=1e-8, rtol=0)


OWN = {
    "Vjp": Vjp(lambda p, c, y: c * np.cos(p[0])),
    "Jvp": Jvp(lambda p, t: t[0] * np.cos(p[0])),
    "Jacobian": Jacobian(lambda x: np.diag(np.cos(x))),
}


@pytest.mark.parametrize("name", OWN)
def test_second_derivatives_of_own_ones_without_a_rule(name):
    def sin(x):
        return np.sin(x)

    f = numpy2torch(sin, gradient=OWN[name])
    with pytest.raises(NoRuleError, match=rf"the {name} of sin .* argument x.*`then=`"):
        jacrev(jacrev(f))(leaf().detach())


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Vjp(lambda p, c, y: np.ones(3)), r"Vjp of fn by x is float64\[3\]"),
        (Vjp(lambda p, c, y: (c, c)), r"Vjp of fn by x is float64\[2,2\]"),
        (Vjp(lambda p, c, y: c * 1j), "Vjp of fn by x is complex"),
        (Jvp(lambda p, t: np.ones(3)), r"result 0 of the Jvp of fn is float64\[3\]"),
        (Jvp(lambda p, t: t), "Jvp of fn returned"),
        (Jacobian(lambda x: np.ones((3, 2))), r"Jacobian of fn by x is float64\[3,2\]"),
    ],
)
def test_own_derivatives_of_wrong_shapes(rule, text):
    def fn(x):
        return np.sin(x)

    y = numpy2torch(fn, gradient=rule)(leaf())
    with pytest.raises(ArgumentError, match=text):
        y.sum().backward()


@pytest.mark.parametrize("make", [Vjp, Jvp])
def test_own_derivatives_have_one_part_for_each_argument(make):
    def fn(x, y):
        return x * y

    rule = Vjp(lambda p, c, y: c) if make is Vjp else Jvp(lambda p, t: t[0])
    if make is Vjp:
        with pytest.raises(ArgumentError, match="where a tuple of 2 was expected"):
            numpy2torch(fn, gradient=rule)(leaf(), leaf()).sum().backward()
    else:
        t = jvp(numpy2torch(fn, gradient=rule), (leaf().detach(),) * 2, (leaf().detach(),) * 2)[1]
        assert t.tolist() == list(X)


def test_a_jacobian_is_of_one_result():
    f = numpy2torch(lambda x: (x, x), gradient=Jacobian(lambda x: np.eye(2)))
    with pytest.raises(ArgumentError, match="has 2 results, and a Jacobian"):
        f(leaf())[0].sum().backward()


def test_complex_steps_of_functions_that_drop_imaginary_parts():
    y = numpy2torch(lambda x: np.abs(x), gradient=ComplexStep())(leaf())
    with pytest.raises(ArgumentError, match="real numbers for complex ones"):
        y.sum().backward()


@pytest.mark.parametrize("rule", [ParameterShift(), ComplexStep()])
def test_rules_for_real_arguments(rule):
    x = leaf((0.3 + 1j,), torch.complex128)
    y = numpy2torch(lambda x: 2 * x, gradient=rule)(x)
    with pytest.raises(ArgumentError, match=r"argument x of .* is complex128\[1\]"):
        y.abs().sum().backward()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gradient": "shifts"}, "gradient='shifts' is no rule"),
        ({"gradient": {"y": FiniteDifference()}}, "gradient= names 'y', no array .* of sums: x"),
        ({"batch_size": 2}, "batch_size= is for vectorized=True"),
        ({"vectorized": True, "batch_size": 0}, "batch_size=0 has to be 1 or more"),
        ({"max_points": 0}, "max_points=0 has to be 1 or more"),
        ({"executor": 3}, "executor=3 has no `map`"),
        ({"dtype": "int32"}, "dtype='int32' is no floating dtype"),
        ({"device": "cuda"}, 'Pass "cpu"'),
        ({"out": "text"}, "out= of sums has a str"),
    ],
)
def test_options_that_cannot_be(options, text):
    with pytest.raises(OptionError, match=text):
        numpy2torch(sums, **options)(leaf())


def test_frequencies_that_cannot_be():
    rule = ParameterShift(((1,), (1,), (1,)))
    with pytest.raises((ArgumentError, OptionError), match="2 elements, and frequencies= has 3"):
        numpy2torch(sums, gradient=rule)(leaf()).backward()
    rule = ParameterShift((1, 2), (np.pi, 2 * np.pi))
    with pytest.raises(OptionError, match="do not tell the frequencies"):
        numpy2torch(sums, gradient=rule)(leaf()).backward()


def test_generators_and_keys():
    def positional(x, rng):
        return x

    def noisy(x, *, rng):
        return x

    with pytest.raises(OptionError, match="by position"):
        numpy2torch(positional)(leaf())
    for key in (3, "text", torch.tensor([1.5])):
        with pytest.raises(ArgumentError, match="argument `rng` of noisy is"):
            numpy2torch(noisy)(leaf(), rng=key)


def test_what_is_recorded_is_refused():
    with pytest.raises(Exception, match="make_fx"):
        torch.func.linearize(numpy2torch(np.sin), leaf().detach())
