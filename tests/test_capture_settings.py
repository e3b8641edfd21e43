"""The settings of torch under which functions are captured, and which come back afterwards."""

import concurrent.futures
import gc
import math
import pickle
import threading
import traceback

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
nn = torch.nn

from bridge._arrays.torch.upstream.capture_settings import capture_settings  # noqa: E402

X = np.random.default_rng(2).normal(size=(2, 3, 3)).astype("float32")


def settings():
    return (
        torch.compiler.is_compiling(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        len(torch.overrides._get_current_function_mode_stack()),
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
    )


@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_equal_native(kind, lower):
    torch.manual_seed(0)
    module = kind(3, 2, batch_first=True)
    there = torch2jax(module, lower=lower)
    loss = lambda params, x: (there.apply(params, {}, x)[0][0] ** 2).sum()
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(there.params, X)
    x = torch.tensor(X, requires_grad=True)
    native = (module(x)[0] ** 2).sum()
    native.backward()
    np.testing.assert_allclose(value, native.detach(), rtol=1e-4)
    np.testing.assert_allclose(gradients[1], x.grad, rtol=1e-3, atol=1e-5)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients[0][name], parameter.grad, rtol=1e-3, atol=1e-5)


class Masked(nn.Module):
    """Attention that leaves out a mask without zeros, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, mask):
        if not torch.compiler.is_compiling() and mask.all():
            mask = None
        scores = self.layer(x) @ x.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -1e9)
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("mask", [np.ones((2, 3), bool), np.arange(6).reshape(2, 3) != 1])
def test_a_model_that_looks_at_values_unless_it_is_compiled(mask, lower):
    module = Masked()
    there = torch2jax(module, capture="require", lower=lower)
    loss = lambda params: (there.apply(params, {}, X, mask)[0] ** 2).sum()
    found = jax.grad(loss)(there.params)
    (module(torch.tensor(X), torch.tensor(mask)) ** 2).sum().backward()
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_padded_encoder():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=True).eval()
    padded = lambda x, padding: encoder(x, src_key_padding_mask=padding)
    padding = torch.tensor([[False, False, True]])
    x = np.random.default_rng(1).normal(size=(1, 3, 4)).astype("float32")
    expected = padded(torch.tensor(x), padding).detach()
    found = torch2jax(padded, capture="require")(jnp.asarray(x), padding.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.warns(
        UserWarning, match="changes in place a tensor that it has computed only from tensors"
    ):
        found = torch2jax(lambda x: padded(x, padding))(jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, SystemExit])
@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("backward", [False, True])
def test_settings_come_back_after_an_error(error, capture, backward):
    class Raising(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            if not backward:
                raise error
            return 2 * x

        @staticmethod
        def backward(ctx, cotangent):
            raise error

    before = settings()
    there = torch2jax(lambda x: Raising.apply(torch.sin(x)).sum(), capture=capture)
    expected = (Exception,) if error is ZeroDivisionError else (error, Exception)
    with pytest.raises(expected):
        jax.grad(there)(jnp.ones(3))
    assert settings() == before
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(torch2jax(lambda x: (x**3).sum()))(x), 3 * x**2)


class Interrupting(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise KeyboardInterrupt


class Passing(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Interrupting, Passing])
def test_a_mode_that_an_interrupt_has_left_on_is_left(mode):
    """As where Ctrl-C comes between the start of a mode and the code that would end it."""

    def function(x):
        mode().__enter__()
        torch.sin(x)
        torch._C._set_meta_in_tls_dispatch_include(True)
        raise KeyboardInterrupt

    before = settings()
    with pytest.raises(KeyboardInterrupt):
        torch2jax(function)(jnp.ones(3))
    assert settings() == before
    assert not torch._C._meta_in_tls_dispatch_include()
    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(torch2jax(lambda x: (x**3).sum()))(x), 3 * x**2)


def test_errors_of_a_capture_are_raised_and_not_logged(capfd):
    with pytest.raises(RuntimeError, match="same reduction dim"):
        torch2jax(lambda x: x @ x)(jnp.zeros((2, 3)))
    assert capfd.readouterr() == ("", "")


class Asking(torch.autograd.Function):
    """Looks at values in its derivative, unless it is compiled."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        if not torch.compiler.is_compiling() and (x == 0).all():
            return torch.zeros_like(x)
        return 3 * x**2 * cotangent


@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_derivatives_are_captured_as_functions_are(lower):
    there = torch2jax(lambda x: Asking.apply(x).sum(), capture="require", lower=lower)
    np.testing.assert_allclose(jax.jit(jax.grad(there))(jnp.array([1.0, -2.0])), [3, 12])
    np.testing.assert_allclose(jax.hessian(there)(jnp.array([1.0, -2.0])), [[6, 0], [0, -12]])


def checked(x):
    torch._check_tensor_all(x > 0)
    return (x**2).sum()


@pytest.mark.parametrize("capture", ["require", "never"])
def test_checks_of_values_are_kept(capture):
    """By `torch._check_tensor_all`, as models of transformers check their inputs."""
    there = torch2jax(checked, capture=capture)
    gradient = jax.grad(there)
    np.testing.assert_allclose(gradient(jnp.array([1.0, 2.0])), [2, 4])
    np.testing.assert_allclose(jax.vmap(gradient)(jnp.ones((2, 2))), 2)
    for function in (there, gradient, jax.jit(there)):
        with pytest.raises(RuntimeError, match=r"as it expects|Expected cond to be True"):
            jax.block_until_ready(function(jnp.array([1.0, -2.0])))


def is_compiling_in_a_thread():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(bool(torch.compiler.is_compiling())))
    thread.start()
    thread.join()
    return seen[0]


def test_other_threads_do_not_compile():
    with capture_settings():
        assert torch.compiler.is_compiling()
        assert not is_compiling_in_a_thread()
        with capture_settings():
            assert torch.compiler.is_compiling()
        assert torch.compiler.is_compiling()
    assert torch.compiler.is_compiling() is False


def test_a_compiler_that_outlives_a_capture_leaves_no_flag():
    """As where another thread compiles meanwhile: it restores what it has found."""
    session = getattr(torch.compiler, "_compile_session_context", None)
    if session is None:
        pytest.skip("torch sets the flag in another way")
    capture, compiler = capture_settings(), session()
    capture.__enter__()
    compiler.__enter__()
    capture.__exit__(None, None, None)
    assert torch.compiler.is_compiling()
    compiler.__exit__(None, None, None)
    assert not torch.compiler.is_compiling()
    compiler, capture = session(), capture_settings()
    compiler.__enter__()
    capture.__enter__()
    compiler.__exit__(None, None, None)
    capture.__exit__(None, None, None)
    assert not torch.compiler.is_compiling()
    with capture_settings():
        pass
    assert torch.compiler.is_compiling() is False


def test_models_are_captured_in_several_threads():
    modules = [Masked() for _ in range(6)]
    expected = [module(torch.tensor(X), torch.ones(2, 3, dtype=torch.bool)) for module in modules]
    mask = np.ones((2, 3), bool)

    def capture_and_call(module):
        there = torch2jax(module, capture="require")
        return there.apply(there.params, {}, X, mask)[0]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = [*pool.map(capture_and_call, modules)]
    for output, native in zip(found, expected, strict=True):
        np.testing.assert_allclose(output, native.detach(), rtol=1e-4, atol=1e-6)
    assert torch.compiler.is_compiling() is False


READERS = {
    "format": lambda x: f"{x.mean():.6f}",
    "pickle": lambda x: pickle.dumps(x.detach()),
    "list": lambda x: x.tolist(),
    "number": lambda x: math.sqrt(abs(x.mean())),
    "address": lambda x: x.untyped_storage().data_ptr(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.filterwarnings("ignore:.*cannot be captured")
def test_logging_runs_anew(reader, backward):
    read = []

    def function(x):
        if backward and x.requires_grad:
            x.register_hook(lambda gradient: read.append(READERS[reader](gradient)))
        elif not backward:
            read.append(READERS[reader](x))
        return (x**3).sum()

    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(torch2jax(function))(x), 3 * x**2)
    if reader == "format":
        assert ("7.500000" if backward else "1.500000") in read


def dispatch_keys():
    c = torch._C
    return c._dispatch_tls_local_include_set(), c._dispatch_tls_local_exclude_set()


def test_garbage_of_failed_captures_leaves_the_dispatch_alone():
    """torch formats a tensor for an error, which fails in a frame that holds a guard."""
    quantile = lambda x: torch.nanquantile(x, torch.tensor(0.3))
    before = dispatch_keys()
    gc.disable()
    try:
        jax.jvp(torch2jax(quantile, lower="xla"), (X,), (X,))
        assert dispatch_keys() == before
        gc.collect()
        assert dispatch_keys() == before
    finally:
        gc.enable()


def test_frames_of_the_user_keep_their_variables():
    """As a debugger shows them after an error."""

    def failing(x):
        rows = x.shape[0]
        return x @ x[:rows, :1]

    with pytest.raises(RuntimeError) as raised:
        torch2jax(failing)(X)
    (frame,) = [f for f, _ in traceback.walk_tb(raised.tb) if f.f_code is failing.__code__]
    assert frame.f_locals["rows"] == 2
