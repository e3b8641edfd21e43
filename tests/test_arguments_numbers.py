"""Numbers as arguments: traced, or static where their value is needed."""

import functools

import numpy as np
import pytest

from bridge import _registry, jax2torch
from tests.conftest import counted

X = np.array([0.3, -1.2, 2.0], np.float32)


# Numbers.


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((2, 5, -3), np.float32), ((2.5, 0.0, -1e-3), np.float32), ((2j, 1 + 3j), np.complex64)],
    ids=["int", "float", "complex"],
)
def test_number_is_traced_and_weak(kits, bridged, values, dtype):
    source, target = kits
    if not _registry.source(source.name).traces_scalars:
        pytest.skip(f"{source.name} takes numbers as they are")
    fn, runs = counted(lambda x, n: x * n)
    there = bridged(fn)
    for number in values:
        found = target.numpy(there(target.array(X), number))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, X * number, rtol=1e-6)
    assert len(runs) == 1


def test_number_is_traced_in_the_derivative(into_torch, torch):
    fn, runs = counted(lambda x, n: x * x * n)
    there = into_torch[1](fn)
    for number in (2.5, -3.0):
        x = torch.tensor(X, requires_grad=True)
        there(x, number).sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach() * number)
    assert len(runs) == 1 or not _registry.source(into_torch[0].name).traces_scalars


def test_float_number_leaves_integers_to_promote_as_in_the_source(jax, torch):
    x = torch.tensor([1, 2], dtype=torch.int32)
    assert jax2torch(lambda x, n: x * n)(x, 2).dtype == torch.int32
    assert jax2torch(lambda x, n: x * n)(x, 2.0).dtype == torch.float32


def test_number_keeps_a_low_precision(into_torch, torch):
    x = torch.tensor(X, dtype=torch.bfloat16)
    assert into_torch[1](lambda x, n: x * n)(x, 2.5).dtype == torch.bfloat16


def test_float_number_does_not_ask_for_64_bits(jax, torch):
    seen = []
    jax2torch(lambda x, n: seen.append(jax.numpy.zeros(1).dtype) or x)(torch.tensor(X), 2.5)
    assert seen == [np.float32]


def test_float_number_is_accurate_beside_float64(jax, torch):
    x = torch.tensor([1 / 3], dtype=torch.float64)
    found = jax2torch(lambda x, n: x * n)(x, 0.1)
    assert found.item() == 1 / 3 * 0.1


def test_number_too_large_is_an_error(jax, torch):
    with pytest.raises(OverflowError, match=r"[Oo]verflow|int32|does not fit|too large"):
        jax2torch(lambda x, n: x * n)(torch.tensor(X), 2**40)


# The hint when a traced number should have been static.


def said(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


NEEDS_VALUE = {
    "if": lambda jax, x, n: x if n > 2 else -x,
    "range": lambda jax, x, n: sum(x for _ in range(n)),
    "shape": lambda jax, x, n: jax.numpy.zeros(n),
    "numpy": lambda jax, x, n: np.sin(n) * x,
    "float": lambda jax, x, n: x * float(n),
    "slice": lambda jax, x, n: x[:n],
    "index of a list": lambda jax, x, n: x * [1, 2, 3, 4][n],
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("fn", NEEDS_VALUE.values(), ids=NEEDS_VALUE)
def test_number_whose_value_is_needed_should_be_static(jax, torch, fn, jitted):
    def function(x, count):
        return fn(jax, x, count)

    there = jax2torch(jax.jit(function) if jitted else function)
    with pytest.raises((TypeError, IndexError), match=r".") as caught:
        there(torch.tensor(X), 3)
    assert "static_argnames" in said(caught.value)
    assert "count" in said(caught.value)
    static = jax2torch(function, static_argnames="count")
    assert static(torch.tensor(X), 3).shape == (3,)


def test_number_that_jit_below_wants_static(jax, torch):
    """`jax.jit` refuses a tracer as its own static argument, and the hint says what to do."""

    @functools.partial(jax.jit, static_argnames="count")
    def function(x, count):
        return x[:count]

    with pytest.raises(ValueError, match=r"static") as caught:
        jax2torch(function)(torch.tensor(X), 2)
    assert "static_argnames=['count']" in said(caught.value)
    assert jax2torch(function, static_argnames="count")(torch.tensor(X), 2).shape == (2,)


def test_error_without_numbers_has_no_hint(jax, torch):
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"traced array") as caught:
        jax2torch(lambda x: x if x[0] > 0 else -x)(torch.tensor(X))
    assert "static_argnames=" not in said(caught.value)


def test_hint_names_the_argument_that_holds_the_number(jax, torch):
    """A container is static as a whole or not at all."""
    with pytest.raises(jax.errors.TracerIntegerConversionError, match=r"__index__") as caught:
        jax2torch(lambda x, pair: x * [1, 2, 3, 4][pair[0]])(torch.tensor(X), (3, 4))
    assert "static_argnames=['pair']" in said(caught.value)


def test_error_of_the_user_has_no_hint(jax, torch):
    """A number among the arguments does not make every error one of tracing."""

    def refuse(x, n):
        raise ValueError("bad luck")

    with pytest.raises(ValueError, match=r"^bad luck\b") as caught:
        jax2torch(refuse)(torch.tensor(X), 3)
    assert "static_argnames" not in said(caught.value)


def test_without_jit_numbers_are_values(jax, torch):
    there = jax2torch(lambda x, n: x * 2 if n > 2 else x[:n], jit=False)
    torch.testing.assert_close(there(torch.tensor(X), 3), torch.tensor(X) * 2)
    torch.testing.assert_close(there(torch.tensor(X), 2), torch.tensor(X)[:2])
