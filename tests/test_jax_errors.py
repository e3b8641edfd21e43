"""Errors of JAX while it traces a function, which name that and its arguments."""

import functools
import inspect

import numpy as np
import pytest

from tests.conftest import wrapper

jax = pytest.importorskip("jax")
jnp = jax.numpy


def chosen(x, params, *others, scale=1.0):
    if params["w"][0].sum() > 0:
        return x * scale
    return x


def by_number(x, n):
    return x if n > 0 else -x


def by_other(x, *others):
    return x if (others[1] > 0).all() else -x


class Model:
    def method(self, x, y):
        return x[: int(y[0])]


def place(fn):
    code = inspect.unwrap(fn).__code__
    return f"{fn.__name__} at {code.co_filename}:{code.co_firstlineno}"


CASES = {
    "in a container": (chosen, ("x", {"w": ["x"]}), {}, "params['w'][0]", chosen),
    "with a keyword": (chosen, ("x",), {"params": {"w": ["x"]}}, "params['w'][0]", chosen),
    "variadic": (by_other, ("x", "x", "x"), {}, "others[1]", by_other),
    "a number": (by_number, ("x", 3), {}, "n", by_number),
    "a method": (Model().method, ("x", "x"), {}, "y", Model.method),
    "partial": (functools.partial(by_number, n=1), ("x",), {}, None, by_number),
    "lambda": (lambda a: a if a.sum() > 0 else -a, ("x",), {}, "a", None),
}


@pytest.mark.parametrize("name", CASES)
def test_errors_of_traces_name_the_function_and_the_argument(target, name):
    fn, args, kwargs, argument, written = CASES[name]
    x = target.array(np.array([0.5, 2.0], "float32"))
    args, kwargs = jax.tree.map(lambda leaf: x if leaf == "x" else leaf, (args, kwargs))
    crossed = wrapper("jax", target.name)(fn)
    if argument is None:
        crossed(*args, **kwargs)  # the number is a constant of the partial function
        return
    with pytest.raises((TypeError, IndexError)) as raised:
        crossed(*args, **kwargs)
    said = str(raised.value)
    assert (place(written) if written else "<lambda> at ") in said
    assert f"the value of the argument {argument}.\n" in said
    advice = "name it static" if name == "a number" else "jnp.where or jax.lax.cond, or pass jit="
    (note,) = [note for note in raised.value.__notes__ if "JAX has removed" not in note]
    assert advice in note


def test_numbers_that_are_not_to_blame_are_not_named(target):
    x = target.array(np.array([0.5, 2.0], "float32"))
    with pytest.raises(TypeError) as raised:
        wrapper("jax", target.name)(lambda x, n: x * n if x.sum() > 0 else x)(x, 2.0)
    assert not any("static" in note for note in raised.value.__notes__)
