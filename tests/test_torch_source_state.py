"""Modes and settings of torch around an Op, and within."""

import pytest

torch = pytest.importorskip("torch")

import bridge  # noqa: E402
from tests.torch_ops import SOURCE, close, op, recorded  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.2, 0.7, 1.6], dtype=DOUBLE)


def ambient(x):
    made = torch.ones(3) * 0.5 + torch.tensor(2.0)
    return x @ x.mT, made, torch.zeros(2)


AMBIENT = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("context", AMBIENT.values(), ids=AMBIENT)
@pytest.mark.parametrize("when", ["made", "called"])
@pytest.mark.parametrize("capture", ["require", "never"])
def test_the_state_of_torch_does_not_leak_in(context, when, capture):
    x = torch.randn(3, 3)
    c = torch.randn(3, 3)

    def make():
        f = op(ambient, x, capture=capture)
        return f, f.derive("vjp", (0,), (0,))

    def call(f, gradients):
        return (*f.call(x), *gradients.call(x, c))

    expected = (*ambient(x), *recorded(ambient, [x], (0,), (0,), [c]))
    if when == "made":
        with context():
            ops = make()
        found = call(*ops)
    else:
        ops = make()
        with context():
            found = call(*ops)
    close(found, expected)
    assert all(y.device.type == "cpu" and not y.requires_grad for y in found)


def test_the_default_dtype_is_that_of_the_making():
    assert SOURCE.trace_context() == torch.float32
    f = op(lambda x: x + torch.ones(3), torch.randn(3))
    eager = op(lambda x: x + torch.ones(3), torch.randn(3), capture="never")
    try:
        torch.set_default_dtype(torch.float64)
        assert SOURCE.trace_context() == torch.float64
        for g in (f, eager):
            assert g.call(torch.ones(3, dtype=torch.float32))[0].dtype == torch.float32
            assert g.derive("vjp", (0,), (0,)).output_specs()[0].dtype == "float32"
            assert torch.get_default_dtype() == torch.float64
        ratio = op(lambda n: n / 3, torch.arange(3))
        torch.set_default_dtype(torch.float32)
        assert ratio.call(torch.arange(3))[0].dtype == torch.float64
        torch.set_default_dtype(torch.float64)
        assert op(lambda x: torch.ones(3), torch.randn(3)).output_specs()[0].dtype == "float64"
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_state_of_torch_does_not_leak_out():
    def fn(x):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        return x * 2

    try:
        op(fn, X)
        op(fn, X, capture="never").call(X)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)


def test_autocast_in_a_function_is_kept():
    def fn(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x

    for capture in ("require", "never"):
        f = op(fn, torch.randn(3, 3), capture=capture)
        assert f.output_specs()[0].dtype == "bfloat16"


@pytest.mark.parametrize(
    ("change", "undo"),
    [
        (
            lambda: torch.use_deterministic_algorithms(True),
            lambda: torch.use_deterministic_algorithms(False),
        ),
        (
            lambda: torch.set_float32_matmul_precision("medium"),
            lambda: torch.set_float32_matmul_precision("highest"),
        ),
    ],
    ids=["deterministic", "precision"],
)
def test_a_function_that_asks_for_a_setting_is_told(change, undo):
    jax = pytest.importorskip("jax")

    def asking(x):
        precise = torch.get_float32_matmul_precision() == "highest"
        return x * (2 * torch.are_deterministic_algorithms_enabled() + precise)

    f, x = bridge.torch2jax(asking), jax.numpy.ones(2)
    before = f(x)[0]
    try:
        change()
        assert f(x)[0] == asking(torch.ones(2))[0].item() != before
    finally:
        undo()
    assert f(x)[0] == before
