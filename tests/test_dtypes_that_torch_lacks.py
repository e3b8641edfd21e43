"""Results of dtypes that torch lacks, and results that are no arrays."""

import pytest

import bridge
from bridge import jax2torch

LACKING = {
    "int4": (lambda jax, x: x.astype("int4"), r"int4"),
    "uint4": (lambda jax, x: x.astype("uint4"), r"uint4"),
    "float8_e4m3b11fnuz": (lambda jax, x: x.astype("float8_e4m3b11fnuz"), r"float8_e4m3b11fnuz"),
    "float0": (
        lambda jax, x: jax.grad(lambda n: x.sum() * n, allow_int=True)(3),
        r"float0",
    ),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("make", "text"), LACKING.values(), ids=LACKING)
def test_result_of_a_dtype_torch_lacks(jax, torch, make, text, requires_grad):
    def f(x):
        return {"fine": x, "odd": [make(jax, x)]}

    with pytest.raises(bridge.ArgumentError, match=rf"result.*odd.* of f\b.*{text}"):
        jax2torch(f)(torch.ones(3, requires_grad=requires_grad))


def test_result_of_a_dtype_torch_lacks_without_jit(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"result.*int4"):
        jax2torch(lambda x: x.astype("int4"), jit=False)(torch.ones(3))


@pytest.mark.parametrize("value", ["sine", abs, {1, 2}], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("jit", [True, False])
def test_result_that_is_no_array(jax, torch, jit, value):
    with pytest.raises(bridge.ArgumentError, match=rf"result.*odd.*{type(value).__name__}"):
        jax2torch(lambda x: {"y": x, "odd": value}, jit=jit)(torch.ones(3))


def test_result_of_torch(jax, torch):
    """A tensor that the function closes over, or a mix-up of namespaces."""
    constant = torch.ones(3)
    with pytest.raises(bridge.ArgumentError, match=r"result.*odd.*torch"):
        jax2torch(lambda x: {"y": x, "odd": constant})(torch.ones(3))


def test_low_precision_inside_does_not_cross(jax, torch):
    """A dtype torch lacks is only a matter of what crosses."""
    x = torch.tensor([1.0, 5.0])
    found = jax2torch(lambda x: x.astype("int4").astype("float32"))(x)
    torch.testing.assert_close(found, x)


def test_residual_of_a_dtype_torch_lacks(jax, torch):
    """Residuals live as tensors between forward and backward."""
    x = torch.tensor([0.5, -1.5], requires_grad=True)

    @jax.custom_vjp
    def scaled(x):
        return x * 3

    scaled.defvjp(
        lambda x: (x * 3, (x * 4).astype("int4")), lambda r, c: (c * r.astype("float32"),)
    )
    (found,) = torch.autograd.grad(jax2torch(scaled)(x).sum(), x)
    torch.testing.assert_close(found, torch.tensor([2.0, -6.0]))
