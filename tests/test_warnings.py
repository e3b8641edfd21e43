"""Warnings point at the line of the user, and torch's own about captures do not reach them."""

import warnings

import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy


def looks(x):
    return x * 2 if x.sum() > 0 else x * 3


@pytest.mark.parametrize("how", [lambda f: f, jax.jit, jax.grad, lambda f: jax.jit(jax.grad(f))])
def test_a_warning_of_a_capture_points_at_the_call(how):
    function = how(torch2jax(lambda x: looks(x).sum()))
    with pytest.warns(UserWarning, match="cannot be captured as a graph") as caught:
        function(jnp.ones(3))
    assert {warning.filename for warning in caught} == {__file__}


def test_a_warning_of_many_traces_points_at_the_call():
    function = torch2jax(lambda x: 2 * x)
    for size in range(1, 17):
        function(jnp.ones(size))
    with pytest.warns(UserWarning, match="has been traced 17 times") as caught:
        function(jnp.ones(17))
    assert {warning.filename for warning in caught} == {__file__}


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        raise ValueError("no backward")


def test_torch_does_not_say_where_an_error_of_a_capture_was(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception, match="no backward"):
            jax.grad(lambda x: torch2jax(Failing.apply)(x).sum())(jnp.ones(3))
    assert capfd.readouterr() == ("", "")


def test_a_function_with_a_backward_is_called_by_its_class():
    function = torch2jax(Failing.apply)
    assert repr(function) == "<torch2jax Failing (capture='auto', lower='ffi')>"
    assert "Failing" in str(jax.make_jaxpr(function)(jnp.ones(3)))
