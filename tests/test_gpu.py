"""What crosses on a CUDA device; run by `nox -s gpu` where there is one."""

import pytest

import bridge

pytestmark = pytest.mark.gpu


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no CUDA device")
    return jax


def test_values_and_gradients_stay_on_the_device(torch, jax):
    x = torch.randn(64, 32, device="cuda", requires_grad=True)
    y = bridge.jax2torch(lambda x: jax.numpy.sin(x) * x)(x)
    assert y.device == x.device
    (found,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad((x.sin() * x).square().sum(), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided", "conjugated"])
def test_layouts(torch, jax, layout):
    z = torch.randn(6, 4, device="cuda", dtype=torch.complex64)
    x = {
        "transposed": lambda: z.T,
        "expanded": lambda: z[0].expand(3, 4),
        "strided": lambda: z[:, ::2],
        "conjugated": lambda: z.conj(),
    }[layout]()
    torch.testing.assert_close(bridge.jax2torch(lambda x: x * 2)(x), x.resolve_conj() * 2)


def test_no_round_sees_memory_that_was_overwritten(torch, jax):
    f = bridge.jax2torch(lambda x: jax.numpy.sin(x).sum(-1))
    for _ in range(200):
        x = torch.rand(1000, 1000, device="cuda")
        expected = x.sin().sum(-1)
        found = f(x)
        x.zero_()
        torch.testing.assert_close(found, expected)


def test_side_stream(torch, jax):
    f = bridge.jax2torch(lambda x: x + 1)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.full((1 << 20,), 2.0, device="cuda")
        y = f(x) * 3
    stream.synchronize()
    assert y.eq(9).all()


def test_host_computes_for_tensors_on_the_device(torch, jax):
    x = torch.randn(5, device="cuda", requires_grad=True)
    y = bridge.jax2torch(jax.numpy.tanh, device="cpu")(x)
    assert y.device == x.device
    torch.testing.assert_close(y, x.tanh())


def test_host_tensors_are_computed_on_the_host(torch, jax):
    x = torch.randn(5)
    assert bridge.jax2torch(jax.numpy.tanh)(x).device == x.device


def test_integers_and_double_precision(torch, jax):
    table = torch.randn(7, 3, device="cuda", dtype=torch.float64)
    index = torch.tensor([4, 0, 4], device="cuda")
    found, same = bridge.jax2torch(lambda t, i: (t[i], i))(table, index)
    torch.testing.assert_close(found, table[index])
    assert same.dtype == torch.int64


def test_values_are_shared(torch, jax):
    x = torch.arange(64.0, device="cuda")
    assert bridge.to_jax(x).unsafe_buffer_pointer() == x.data_ptr()
    assert bridge.to_torch(bridge.to_jax(x)).data_ptr() == x.data_ptr()
