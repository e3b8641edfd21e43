"""Errors of bridged functions in compiled code, and graph breaks where they are allowed."""

import numpy as np
import pytest

from bridge import NoRuleError

torch = pytest.importorskip("torch")

from tests.compiling import X, compiled  # noqa: E402
from tests.versions import NEWER_DYNAMO  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class SentinelError(ValueError):
    pass


def failing(x):
    raise SentinelError(f"not for {x.shape}")


def test_an_error_names_its_type_text_and_the_call(into_torch):
    _, wrap = into_torch
    f = wrap(failing)
    with pytest.raises(RuntimeError, match=r"SentinelError: not for \(2, 3\)") as caught:
        compiled(lambda x: f(x) * 2)(X)
    assert "lambda x: f(x) * 2" in str(caught.value)


def test_without_fullgraph_an_error_is_that_of_eager_code(into_torch):
    _, wrap = into_torch
    f = wrap(failing)
    with pytest.raises(SentinelError, match=r"^not for \(2, 3\)"):
        torch.compile(lambda x: f(x) * 2, backend="aot_eager")(X)


def test_without_fullgraph_transformations_are_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    step = torch.compile(lambda x: torch.func.grad(f)(x) * 2, backend="aot_eager")
    torch.testing.assert_close(step(X), X.cos() * 2)


# Dynamo asks every tensor that enters a graph for its `.grad`: torch 2.13 warns of itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_without_fullgraph_a_step_with_its_backward_is_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) if x.sum() > 0 else -x, jit=False)

    def step(x):
        y = f(x * 2)
        y.sum().backward()
        return y * 2

    x = X.clone().requires_grad_()
    torch.testing.assert_close(torch.compile(step, backend="aot_eager")(x), (X * 2).sin() * 2)
    torch.testing.assert_close(x.grad, 2 * (X * 2).cos())


def test_without_fullgraph_a_function_that_looks_at_values_is_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) if x.sum() > 0 else -x, jit=False)
    step = torch.compile(lambda x: f(x) * 2, backend="aot_eager")
    torch.testing.assert_close(step(X), X.sin() * 2)
    torch.testing.assert_close(step(-X), X * 2)


@NEWER_DYNAMO
@pytest.mark.parametrize("value", [np.float32(2), np.ones(3, "float32")], ids=["scalar", "array"])
def test_numpy_is_refused(into_torch, value):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * y)
    with pytest.raises(RuntimeError, match="a NumPy scalar as a number"):
        compiled(lambda x: f(x, value))(X)


def test_the_function_is_usable_after_an_error(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).reshape(3, -1))
    step = compiled(lambda x: f(x))
    with pytest.raises(RuntimeError, match="reshape"):
        step(X[:1, :2])
    torch.testing.assert_close(step(X), X.sin().reshape(3, 2))
    torch.testing.assert_close(f(X), X.sin().reshape(3, 2))


def test_dual_tensors_in_code_compiled_before_are_refused(into_torch):
    """The graph of this backend calls the function each time; Dynamo has no guard on duals."""
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)
    step = torch.compile(lambda x: f(x) * 2, backend="eager")
    torch.testing.assert_close(step(X), 2 * X.sin() * X)
    duals = torch.autograd.forward_ad
    with duals.dual_level(), pytest.raises(NoRuleError, match="cannot be recorded in a graph"):
        step(duals.make_dual(X, X))
