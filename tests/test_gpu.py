"""What crosses on a CUDA device; run by `nox -s gpu` where there is one."""

import numpy as np
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


@pytest.fixture
def doubled(torch, jax):
    """A function of torch as one of JAX, and the devices it ran on."""
    from bridge._core.op import Op
    from bridge._core.spec import ArraySpec
    from tests.handmade import exposed

    seen = []

    def call(x):
        seen.append((x.device.index, x.data_ptr(), torch.cuda.current_stream().cuda_stream))
        return (x * 2,)

    spec = ArraySpec((1 << 20,), "float32")
    return exposed(
        Op(name="f", framework="torch", call=call, output_specs=lambda *_: (spec,))
    ), seen


def test_jax_lends_its_memory_and_its_stream(torch, jax, doubled):
    f, seen = doubled
    device = jax.devices()[-1]
    x = jax.device_put(jax.numpy.arange(1 << 20, dtype="float32"), device)
    (y,) = jax.jit(f)(x)
    assert y.devices() == {device}
    assert jax.numpy.array_equal(y, 2 * x)
    index, pointer, stream = seen[0]
    assert index == device.local_hardware_id
    assert pointer == x.unsafe_buffer_pointer()
    assert stream != torch.cuda.default_stream(index).cuda_stream


def test_calls_from_jax_wait_for_one_another_on_the_device(jax, doubled):
    f, _ = doubled
    x = jax.numpy.ones(1 << 20, "float32")

    @jax.jit
    def chain(x):
        for _ in range(50):
            x = f(x)[0] * 0.5 + 0.001
        return x

    native = x
    for _ in range(50):
        native = native + 0.001
    assert jax.numpy.allclose(chain(x), native, rtol=1e-5)


def test_gradients_of_torch_functions_on_the_device(jax):
    from tests.handmade import into_jax

    f = into_jax(lambda x: x.sin() * x, name="f", keep=True)
    x = jax.numpy.linspace(-1, 1, 64)
    found = jax.jit(jax.grad(lambda x: f(x).sum()))(x)
    expected = jax.grad(lambda x: (jax.numpy.sin(x) * x).sum())(x)
    assert jax.numpy.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_functions_on_numpy_arrays_take_the_memory_of_the_host(torch):
    x = torch.randn(4, device="cuda", requires_grad=True)
    rule = bridge.rules.ComplexStep()
    with pytest.raises(bridge.DeviceError, match='device="cpu"'):
        bridge.numpy2torch(np.sin, gradient=rule)(x)
    y = bridge.numpy2torch(np.sin, gradient=rule, device="cpu")(x)
    y.sum().backward()
    assert y.device == x.device
    torch.testing.assert_close(x.grad, x.detach().cos())
