"""Complex steps of derivatives that the user gives, in every order of modes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import jacfwd, jacrev  # noqa: E402

from bridge import numpy2torch  # noqa: E402
from bridge.rules import ComplexStep, Jacobian, Jvp, Vjp  # noqa: E402


def function(x):
    return np.array([np.sin(x[0] * x[1]), x[0] ** 3 * x[1]])


def native(x):
    return torch.stack([torch.sin(x[0] * x[1]), x[0] ** 3 * x[1]])


def jacobian(x):
    cosine = np.cos(x[0] * x[1])
    return np.array([[x[1] * cosine, x[0] * cosine], [3 * x[0] ** 2 * x[1], x[0] ** 3]])


RULES = {
    "vjp": Vjp(lambda xs, w, y: w @ jacobian(xs[0]), then=ComplexStep()),
    "jvp": Jvp(lambda xs, v: jacobian(xs[0]) @ v[0], then=ComplexStep()),
    "jacobian": Jacobian(jacobian, then=ComplexStep()),
}


@pytest.mark.parametrize("outer", [jacfwd, jacrev])
@pytest.mark.parametrize("inner", [jacfwd, jacrev])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_second_derivatives_are_exact(rule, inner, outer):
    x = torch.tensor([0.5, -1.2], dtype=torch.float64)
    actual = outer(inner(numpy2torch(function, gradient=rule)))(x)
    torch.testing.assert_close(actual, outer(inner(native))(x), rtol=0, atol=1e-14)
