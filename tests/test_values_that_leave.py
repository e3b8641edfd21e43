"""Results that depend on arguments by values that have left torch: NumPy, `.item()`, lists."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

from bridge import NoRuleError, torch2jax  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -0.7, 1.2], dtype=DOUBLE)
ONE = torch.ones((), dtype=DOUBLE)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* cannot be captured as a graph"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad"),
]

LEAVING = {
    "NumPy": lambda x: torch.as_tensor(np.sin(x.detach().numpy())).sum(),
    "asarray": lambda x: torch.as_tensor(np.asarray(x.detach()) ** 2).sum(),
    "from_dlpack": lambda x: torch.from_dlpack(np.from_dlpack(x.detach()) * 2).sum(),
    "item": lambda x: torch.tensor(2 * x.sum().item(), dtype=DOUBLE),
    "a number": lambda x: [x.sum().item() ** 2],
    "float": lambda x: torch.tensor(float(x.prod()), dtype=DOUBLE),
    "tolist": lambda x: torch.tensor([v * v for v in x.tolist()]).sum(),
    "tensor": lambda x: torch.tensor(x).sum(),
    "new_tensor": lambda x: x.new_tensor(x * 2).sum(),
    "after an if": lambda x: torch.tensor(x.prod().item()) if x.sum() > -9 else x.sum(),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_result_without_gradient_is_refused(name):
    f = op(LEAVING[name], X, capture="auto")
    with pytest.raises(NoRuleError, match=r"result 0 of f depends .* have left torch"):
        f.derive("vjp", (0,), (0,))
    with pytest.raises(NoRuleError, match=r"have left torch|values leave torch"):
        f.derive("jvp", (0,))


STOPPED = {
    "detach": lambda x: (x.detach() ** 2).sum(),
    "data": lambda x: (x.data**2).sum(),
    "no_grad": torch.no_grad()(lambda x: x.prod()),
    "detach after an if": lambda x: x.detach().sum() if x.sum() > -9 else x.sum(),
    "a constant": lambda x: torch.tensor(1.0) if x.sum() > -9 else x.sum(),
    "a count": lambda x: torch.tensor(float((x > 0).sum().item())),
    "a size": lambda x: torch.ones(int(x.max().item()) + 1).sum(),
}


@pytest.mark.parametrize("name", STOPPED)
def test_what_has_no_gradient_by_the_will_of_the_user_keeps_zeros(name):
    f = op(STOPPED[name], X, capture="auto")
    cotangent = torch.ones((), dtype=getattr(torch, f.output_specs()[0].dtype))
    close(f.derive("vjp", (0,), (0,)).call(X, cotangent), [torch.zeros(3, dtype=DOUBLE)])


def test_only_results_that_are_differentiated_count():
    def fn(x):
        return (x**2).sum(), torch.as_tensor(np.sin(x.detach().numpy()))

    gradient = op(fn, X, capture="auto").derive("vjp", (0,), (0,))
    close(gradient.call(X, ONE), [2 * X])


def test_a_factor_that_left_is_a_constant_as_in_torch():
    f = op(lambda x: (x * x.sum().item()).sum(), X, capture="auto")
    close(f.derive("vjp", (0,), (0,)).call(X, ONE), [X.sum().expand(3)])


def test_another_branch_is_held_to_it_on_each_call():
    def fn(x):
        return x.sum() if x.sum() > 0 else torch.tensor(x.prod().item(), dtype=DOUBLE)

    gradient = op(fn, X, capture="auto").derive("vjp", (0,), (0,))
    close(gradient.call(X, ONE), [torch.ones(3, dtype=DOUBLE)])
    with pytest.raises(NoRuleError, match="have left torch"):
        gradient.call(-X, ONE)


def test_it_is_refused_in_jax_and_mlx():
    mx = pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    with pytest.raises(NoRuleError, match="have left torch"):
        jax.jit(jax.grad(torch2jax(LEAVING["NumPy"])))(np.ones(3, "float32"))
    with pytest.raises(NoRuleError, match="have left torch"):
        mx.grad(torch2mlx(LEAVING["NumPy"]))(mx.ones(3))
