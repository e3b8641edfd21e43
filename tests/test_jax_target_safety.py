"""Buffers that cross from JAX to torch: every dtype, errors, settings and threads."""

import gc
import re
import threading
import traceback

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.export
import jax.numpy as jnp
import torch

from bridge import ArgumentError, NoValuesError
from bridge._core.op import Op
from bridge._core.spec import ArraySpec
from bridge._targets.jax import ffi, ffi_call
from bridge._targets.jax.capsule import DeviceBuffer
from tests.handmade import exposed, into_jax

X = np.array([0.5, -1.5, 2.0], np.float32)
DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
SHAPES = [(), (1,), (0,), (3, 0, 2), (2, 3), (1, 2, 1, 2, 1, 1, 2, 1, 1, 3)]


def wrong(call, results):
    """An Op that promises `results` and returns what `call` does."""
    return exposed(Op(name="f", framework="torch", call=call, output_specs=lambda *_: results))


def values(shape, dtype):
    count = int(np.prod(shape))
    found = (np.arange(count) % 3 + 1).reshape(shape)
    return (found * (1 + 2j) if "complex" in dtype else found).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_crosses(dtype, shape):
    with jax.enable_x64(True):
        f = into_jax(lambda x, y: (y.clone(), x.clone()), name="f")
        x, y = jnp.asarray(values(shape, dtype)), jnp.asarray(values((2,), dtype))
        first, second = jax.jit(f)(x, y)
        assert second.dtype == x.dtype == dtype
        np.testing.assert_array_equal(np.asarray(first), values((2,), dtype))
        np.testing.assert_array_equal(np.asarray(second), values(shape, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 3)], ids=str)
def test_gradients_of_every_dtype(dtype, shape):
    with jax.enable_x64(True):
        f = into_jax(lambda x: x * x, name="f", keep=True)
        x = jnp.asarray(values(shape, dtype))
        got = jax.jit(lambda x: jax.vjp(f, x)[1](x)[0])(x)
        expected = jax.vjp(lambda x: x * x, x)[1](x)[0]
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("dtype", sorted({*DTYPES} - {"bool"}))
def test_a_buffer_is_lent_by_dlpack(dtype):
    x = values((2, 3), dtype)
    buffer = DeviceBuffer(x.ctypes.data, ArraySpec((2, 3), dtype), (1, 0))
    tensor = torch.from_dlpack(buffer)
    assert (tensor.data_ptr(), tensor.shape) == (x.ctypes.data, (2, 3))
    assert str(tensor.dtype) == f"torch.{dtype}"


def test_arguments_are_not_copied():
    seen = []

    def f(x):
        seen.append(x.data_ptr())
        return (x.clone(),)

    native = wrong(f, (ArraySpec((16,), "float32"),))
    x = jnp.arange(16.0, dtype="float32")
    native(x)
    assert seen == [x.unsafe_buffer_pointer()]


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_an_error_of_the_function_is_shown_and_nothing_breaks(jit):
    def guarded(x):
        if bool((x > 5).any()):
            raise LookupError("x is not in the table")
        return (x + 1,)

    f = wrong(guarded, (ArraySpec((3,), "float32"),))
    f = jax.jit(f) if jit else f
    for _ in range(3):
        with pytest.raises(jax.errors.JaxRuntimeError if jit else LookupError) as error:
            jax.block_until_ready(f(jnp.asarray(X) + 10))
        shown = "".join(traceback.format_exception(error.value))
        assert "LookupError: x is not in the table" in shown
        assert re.search(r'File ".*test_jax_target_safety.py", line \d+, in guarded', shown)
        np.testing.assert_array_equal(f(jnp.asarray(X))[0], X + 1)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: (x, x), "f returned 2 results where 1 were expected"),
        (lambda x: (x[:1],), r"result 0 of f is float32\[1\], where float32\[3\] was expected"),
        (lambda x: (x.double(),), r"result 0 of f is float64\[3\], where float32\[3\]"),
    ],
    ids=["count", "shape", "dtype"],
)
def test_results_other_than_promised_are_refused(call, text):
    f = wrong(call, (ArraySpec((3,), "float32"),))
    with pytest.raises(ArgumentError, match=text):
        jax.block_until_ready(f(jnp.asarray(X)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=text):
        jax.block_until_ready(jax.jit(f)(jnp.asarray(X)))


SQUARE = jax.jit(lambda x: x * x)


@pytest.mark.parametrize(
    "inside",
    [
        lambda: jnp.sin(1.0),
        lambda: SQUARE(2.0),
        lambda: jnp.ones(3) + 1,
        lambda: jax.grad(lambda x: x**2)(1.0),
        lambda: jax.nn.relu(1.0),
        lambda: jax.vmap(jnp.sin)(np.ones(3)),
        lambda: jax.lax.scan(lambda c, _: (c, c), 0.0, None, length=3),
    ],
    ids=["operation", "jitted", "array", "grad", "custom_jvp", "vmap", "scan"],
)
def test_jax_inside_of_the_function_is_refused(inside):
    def f(x):
        inside()
        return (x,)

    SQUARE(2.0)  # so that its program is there to be found
    native = wrong(f, (ArraySpec((3,), "float32"),))
    with pytest.raises(NoValuesError, match="runs inside of a JAX computation"):
        jax.block_until_ready(native(jnp.asarray(X)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="runs inside of a JAX computation"):
        jax.block_until_ready(jax.jit(native)(jnp.asarray(X)))
    assert SQUARE(2.0) == 4.0


def test_results_of_64_bits_need_the_mode():
    f = into_jax(lambda x: x.double(), name="f")
    with pytest.raises(ArgumentError, match=r"result 0 of f is float64\[3\], which has no count"):
        f(X)
    with jax.enable_x64(True):
        assert f(X).dtype == np.float64


def test_torch_settings_stay_what_they_are():
    f = into_jax(lambda x: x + 1, name="f")
    with torch.enable_grad():
        jax.block_until_ready(jax.jit(f)(X))
        assert torch.is_grad_enabled()


def test_many_threads():
    f = jax.jit(jax.value_and_grad(lambda x: into_jax(torch.sin, name="f", keep=True)(x).sum()))
    failures = []

    def work(seed):
        for i in range(50):
            x = jnp.full(3, seed + i / 100, "float32")
            _, gradient = f(x)
            if not np.allclose(gradient, np.cos(x), atol=1e-6):
                failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_another_version_of_the_interface_is_refused(monkeypatch):
    monkeypatch.setattr(ffi.ffi_structs, "VERSION", (0, 1000))
    with pytest.raises(Exception, match=r"has version 0\.\d+ of XLA's foreign function interface"):
        ffi._check_version()


def test_a_compiled_program_outlives_its_function():
    compiled = jax.jit(into_jax(lambda x: x * 3, name="f")).lower(X).compile()
    gc.collect()
    np.testing.assert_array_equal(compiled(X), 3 * X)


def test_a_program_cannot_leave_its_process():
    f = jax.jit(into_jax(lambda x: x * 3, name="f"))
    with pytest.raises(ArgumentError, match="f has no name that another process could find it by"):
        jax.export.export(f)(X)
    with pytest.raises(ArgumentError, match="calls f#0-0, a function of another process"):
        ffi_call.lookup(b"f#0-0")
