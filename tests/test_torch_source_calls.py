"""Calls of Ops of torch: dtypes, errors, what is captured, what is freed, and threads."""

import contextlib
import gc
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

import bridge  # noqa: E402
from bridge import _registry  # noqa: E402
from bridge._core.errors import OptionError  # noqa: E402
from tests.records import recorder  # noqa: E402
from tests.torch_ops import close, op, recorded  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.2, 0.7, 1.6], dtype=DOUBLE)


def test_a_singular_matrix_is_an_error_of_each_call():
    a = torch.eye(3, dtype=DOUBLE)
    f = op(torch.linalg.inv, a)
    close(f.call(2 * a), [a / 2])
    with pytest.raises(RuntimeError, match="singular"):
        f.call(0 * a)
    split = f.derive("forward_backward", (0,), (0,))
    with pytest.raises(RuntimeError, match="singular"):
        split.forward.call(0 * a)


def test_a_compiled_function_is_captured_as_it_was_written():
    inner = torch.compile(lambda x: x.sin() * 2, backend="eager")
    inner(X)
    close(op(lambda x: inner(x) + 1, X).call(X), [X.sin() * 2 + 1])


def test_an_unknown_way_of_capturing():
    with pytest.raises(OptionError, match="capture='maybe' is neither"):
        _registry.outline("torch").check_options(capture="maybe")


DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    x = torch.ones(2, 3).to(getattr(torch, dtype))
    f = op(lambda x: (x, x.mT, x[0]), x)
    assert [str(s) for s in f.output_specs()] == [f"{dtype}[{s}]" for s in ("2,3", "3,2", "3")]
    for found, expected in zip(f.call(x), (x, x.mT, x[0]), strict=True):
        assert found.dtype == x.dtype
        assert torch.equal(
            found.float() if "float8" in dtype else found,
            (expected.float() if "float8" in dtype else expected),
        )
        assert found.is_contiguous()


def test_ten_axes():
    x = torch.randn(*[2, 1] * 5, dtype=DOUBLE)
    f = op(lambda x: x.transpose(0, 9).cos(), x)
    close(f.call(x), [x.transpose(0, 9).cos()])


def test_reach():
    def fn(x, y, n, z):
        return x * y.detach(), torch.zeros_like(z), y[n], torch.ones(2), z.sin()

    xs = X, X, torch.tensor([0, 1]), X
    found = op(fn, *xs).traits.dependencies()
    assert [set(positions) for positions in found] == [{0, 1}, set(), {1, 2}, set(), {3}]


def test_captured_once():
    runs, record = recorder()

    def fn(x):
        record(1)
        return x * 2

    f = op(fn, X)
    traced = len(runs)
    for _ in range(5):
        f.call(X)
        f.derive("forward_backward", (0,), (0,)).forward.call(X)
    split = len(runs)
    for _ in range(5):
        f.derive("forward_backward", (0,), (0,)).forward.call(X)
        f.call(X)
    assert len(runs) == split
    assert traced <= 2


def test_an_op_is_freed_with_its_constants():
    big = torch.randn(1000)
    f = op(lambda x, big=big: x * big.sum(), X)
    f.derive("forward_backward", (0,), (0,)).backward((0,))
    f.derive("vjp", (0,), (0,))
    kept = weakref.ref(big)
    del big, f
    gc.collect()
    assert kept() is None


def test_threads():
    failures = []

    def work(n):
        try:
            x = torch.full((3,), float(n), dtype=DOUBLE)
            f = op(lambda x: torch.tanh(x * n), x)
            for _ in range(20):
                close(f.call(x), [torch.tanh(x * n)])
            close(
                f.derive("vjp", (0,), (0,)).call(x, x),
                recorded(lambda x: torch.tanh(x * n), [x], (0,), (0,), [x]),
            )
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("how", [{}, {"lower": "xla"}, {"capture": "never"}], ids=str)
def test_the_tangent_of_a_number_is_no_wider_than_it(how):
    jax = pytest.importorskip("jax")
    function, x = lambda x: x / (1.5 + x * x), jax.numpy.float32(0.3)
    assert torch.func.jvp(function, (torch.tensor(0.3),), (torch.tensor(1.0),))[1].dtype == DOUBLE
    tangent = jax.jvp(bridge.torch2jax(function, **how), (x,), (jax.numpy.ones_like(x),))[1]
    assert tangent.dtype == jax.numpy.float32
    assert abs(tangent - (1.5 - 0.3**2) / (1.5 + 0.3**2) ** 2) < 1e-6


def test_a_loss_that_graphs_may_have_wrong():
    """Torch 2.13 counts the labels behind the first -1 where it takes this loss apart."""
    x, labels = torch.tensor([0.3, -0.2, 0.9], dtype=DOUBLE), torch.tensor([1, -1, 0])
    kernel = torch.ops.aten.multilabel_margin_loss_forward.default
    parts = torch._decomp.decomposition_table[kernel]
    warns = contextlib.nullcontext()
    if not torch.allclose(parts(x, labels, 1)[0], kernel(x, labels, 1)[0]):
        text = "torch computes multilabel_margin_loss wrongly there"
        warns = pytest.warns(UserWarning, match=text)
    with warns:
        found = op(F.multilabel_margin_loss, x, labels, capture="auto")
    close(found.call(x, labels), [F.multilabel_margin_loss(x, labels)])
