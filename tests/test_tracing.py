"""How often a function is traced, and what a trace depends on."""

import warnings

import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above
from tests.points import X, leaf  # noqa: E402


@pytest.fixture
def traced():
    """A function, wrapped, and the shapes of the arguments it was traced with."""
    seen = []

    def function(x, *_, **__):
        seen.append(x.shape)
        return (jnp.sin(x) * x).sum()

    return jax2torch(function), seen


def test_hundred_calls_are_one_trace(traced):
    f, seen = traced
    for i in range(100):
        f(torch.full((4,), float(i)))
    assert len(seen) == 1


def test_hundred_gradients_are_one_trace(traced):
    f, seen = traced
    for _ in range(100):
        f(leaf()).backward()
    assert len(seen) == 1


DERIVATIVES = {
    "forward": lambda f, x: f(x),
    "backward": lambda f, x: torch.autograd.grad(f(x), x),
    "second order": lambda f, x: torch.autograd.grad(
        torch.autograd.grad(f(x), x, create_graph=True)[0].sum(), x
    ),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, x])),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
    "per sample": lambda f, x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, x])),
    "no_grad": lambda f, x: torch.no_grad()(f)(x),
}


def test_every_derivative_is_made_from_one_trace(traced):
    f, seen = traced
    for _ in range(2):
        for derivative in DERIVATIVES.values():
            derivative(f, leaf())
    assert len(seen) == 1


@pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=DERIVATIVES)
def test_derivative_that_comes_first_traces_once(traced, derivative):
    f, seen = traced
    for _ in range(2):
        derivative(f, leaf())
    assert len(seen) == 1


@pytest.mark.parametrize("derivative", ["backward", "second order", "jvp", "vmap"])
def test_derivatives_are_compiled_once(traced, derivative):
    """JAX itself says what it compiles: nothing the second time."""
    f, _ = traced
    DERIVATIVES[derivative](f, leaf())
    compiled = []

    def listen(event, *_, **__):
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 41)(1.0)
        heard = len(compiled)
        DERIVATIVES[derivative](f, leaf())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert heard > 0
    assert len(compiled) == heard


@pytest.mark.parametrize("residuals", ["auto", "save"])
def test_both_halves_of_a_gradient_are_traced_once(residuals):
    """JAX itself says what it traces, to compile it too."""
    halves = {"auto": ["value_and_grad", "scale"], "save": ["forward", "backward"]}[residuals]
    traces = []

    def listen(event, *_, fun_name="", **__):
        if "trace" in event and fun_name.startswith("function."):
            traces.append(fun_name.removeprefix("function."))

    def function(x):
        return (jnp.sin(x) * x).sum()

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax2torch(function, residuals=residuals)(leaf()).backward(torch.tensor(2.0))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert traces == halves


def test_requires_grad_does_not_trace_again(traced):
    f, seen = traced
    for wanted in (True, False, True, False):
        f(leaf().requires_grad_(wanted))
    assert len(seen) == 1


def test_layout_does_not_trace_again(traced):
    f, seen = traced
    f(torch.arange(4.0))
    f(torch.arange(8.0)[::2])
    f(torch.zeros(1).expand(4))
    f(torch.nn.Parameter(torch.arange(4.0)))
    assert len(seen) == 1


def test_value_of_a_number_does_not_trace_again(traced):
    f, seen = traced
    for i in range(5):
        f(leaf(), float(i))
    assert len(seen) == 1


def test_new_shape_traces_once(traced):
    f, seen = traced
    for _ in range(3):
        for shape in ((4,), (2, 2)):
            f(torch.ones(shape, requires_grad=True)).backward()
    assert seen == [(4,), (2, 2)]


NEW_TRACES = {
    "dtype": lambda f: f(torch.ones(4, dtype=torch.float16)),
    "64-bit mode": lambda f: f(torch.ones(4, dtype=torch.float64)),
    "structure": lambda f: f(torch.ones(4), torch.ones(4)),
    "keyword": lambda f: f(torch.ones(4), y=torch.ones(4)),
    "static value": lambda f: f(torch.ones(4), "mode"),
    "type of a number": lambda f: f(torch.ones(4), 1),
}


@pytest.mark.parametrize("call", NEW_TRACES.values(), ids=NEW_TRACES)
def test_what_a_trace_depends_on_traces_once_more(traced, call):
    f, seen = traced
    f(torch.ones(4))
    call(f)
    call(f)
    f(torch.ones(4))
    assert len(seen) == 2


def test_equal_values_of_different_types_are_different_static_values():
    seen = []

    def function(x, flag):
        seen.append(flag)
        return x * (2 if flag is True else 3)

    f = jax2torch(function, static_argnames="flag")
    results = [f(torch.ones(1), flag).item() for flag in (1, True, 1.0, 1, True, 1.0)]
    assert results == [3, 2, 3, 3, 2, 3]
    assert [type(flag) for flag in seen] == [int, bool, float]


def test_global_64_bit_mode_is_part_of_the_key(traced):
    f, seen = traced
    for _ in range(2):
        f(torch.ones(4))
        with jax.enable_x64(True):
            f(torch.ones(4))
    assert len(seen) == 2


def test_many_traces_warn_once_and_name_the_argument():
    f = jax2torch(lambda fixed, varying: (fixed.sum() * varying).sum())
    for n in range(1, 17):
        f(torch.ones(3), torch.ones(n))
    with pytest.warns(UserWarning, match=r"traced 17 times.*varying \(float32\[1\]") as caught:
        f(torch.ones(3), torch.ones(17))
    assert len(caught) == 1
    assert "fixed" not in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        f(torch.ones(3), torch.ones(18))


def test_many_traces_of_a_static_value_name_it():
    f = jax2torch(lambda x, n: x * n, static_argnames="n")
    for n in range(16):
        f(torch.ones(3), n=n)
    with pytest.warns(UserWarning, match="Varying: n "):
        f(torch.ones(3), n=16)


def test_sixteen_traces_do_not_warn():
    f = jax2torch(lambda x: x.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for n in range(1, 17):
                f(torch.ones(n))


ROWS = {
    "row": lambda x, y: (x, y),
    "tuple": lambda x, y: ((x, y),),
    "tuple after an empty one": lambda x, y: ((), (x, y)),
    "row with an empty tuple": lambda x, y: (x, (), y),
    "row with None": lambda x, y: (x, y, None),
    "row with a number": lambda x, y: (x, y, 2.0),
    "row with a flag": lambda x, y: (x, y, True),
}


def test_as_many_leaves_in_other_places_are_other_traces():
    """A row of arguments is known by their number: nothing else may be taken for one."""
    seen = []
    f = jax2torch(lambda *args: seen.append(args) or args)
    x, y = torch.tensor(X), torch.tensor(X[:2])
    for _ in range(2):
        for make in (*ROWS.values(), *reversed(ROWS.values())):
            args = make(x, y)
            found = jax.tree.leaves(f(*args))
            assert [list(z) if z.dim() else z for z in found] == [
                list(z) if isinstance(z, torch.Tensor) else z for z in jax.tree.leaves(args)
            ]
    assert len(seen) == len(ROWS)
    assert len({str(jax.tree.structure(args)) for args in seen}) == len(ROWS) - 1


def test_a_row_and_the_same_arguments_by_name_are_two_traces_at_most():
    seen = []
    f = jax2torch(lambda x, y: seen.append(1) or x - y)
    x, y = torch.tensor(X), torch.tensor(X) ** 2
    for _ in range(3):
        for found in (f(x, y), f(x, y=y), f(y=y, x=x)):
            torch.testing.assert_close(found, x - y)
    assert len(seen) == 3
    assert f(y, x).tolist() == (y - x).tolist()
    assert len(seen) == 3


RESULTS = {
    "array": lambda x: x,
    "tuple": lambda x: (x, x + 1),
    "tuple of one": lambda x: (x,),
    "empty tuple": lambda x: (),
    "list": lambda x: [x, x + 1],
    "nested": lambda x: (x, (x + 1,)),
    "with None": lambda x: (x, None),
}


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results_are_built_as_they_were(function):
    x = torch.tensor(X)
    f = jax2torch(function)
    for _ in range(2):
        found, expected = f(x), function(x)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            torch.testing.assert_close(one, other)


def test_nested_tensor_in_a_row_is_refused_by_name():
    """Known as a class of leaves, it has no shape to be told from others by."""
    f = jax2torch(lambda x: x)
    f(torch.tensor(X))
    with warnings.catch_warnings(action="ignore"):  # it is a prototype, says torch
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(TypeError, match="argument x of <lambda>: it is a nested tensor"):
        f(nested)
