"""What a call of an Op of torch leaves alone, and what it refuses."""

import contextlib
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

import bridge  # noqa: E402
from bridge import _registry  # noqa: E402
from bridge._core.errors import ArgumentError, NoRuleError, NoValuesError, OptionError  # noqa: E402
from tests.torch_ops import SOURCE, backward, close, cube, like, op, recorded, spec  # noqa: E402

DOUBLE = torch.float64
HOME = _registry.source_arrays("torch")
X = torch.randn(4, dtype=DOUBLE)


# Values and residuals.


def test_dropout_has_one_mask_for_value_and_gradient():
    x = torch.randn(1000)
    split = op(lambda x: F.dropout(x * 2, 0.4), x).derive("forward_backward", (0,), (0,))
    results = split.forward.call(x)
    (found,) = backward(split, [x], results, [torch.ones(1000)], (0,))
    mask = results[0] != 0
    assert 400 < mask.sum() < 800
    torch.testing.assert_close(found, mask / 0.6 * 2)
    assert not torch.equal(split.forward.call(x)[0], results[0])


def seeded(x, seed):
    y = F.dropout(x * 2, 0.5) + torch.rand(1)
    return torch.nn.functional.dropout(y, 0.5).sin() * torch.randn_like(x)


SEED = torch.tensor([17, 2**32 - 5], dtype=torch.uint32)


def test_a_seed_decides_random_numbers_in_every_derivative():
    x, c = torch.randn(200, dtype=DOUBLE), torch.randn(200, dtype=DOUBLE)
    f = op(seeded, x, SEED, seed=1)
    (value,) = f.call(x, SEED)
    assert torch.equal(value, f.call(x, SEED)[0])
    assert not torch.equal(value, f.call(x, torch.tensor([17, 18], dtype=torch.uint32))[0])
    split = f.derive("forward_backward", (0,), (0,))
    results = split.forward.call(x, SEED)
    assert torch.equal(results[0], value)
    (kept,) = backward(split, [x, SEED], results, [c], (0,))
    (again,) = f.derive("vjp", (0,), (0,)).call(x, SEED, c)
    torch.testing.assert_close(kept, again)
    (tangent,) = f.derive("jvp", (0,)).call(x, SEED, x)
    torch.testing.assert_close((tangent * c).sum(), (kept * x).sum())
    step = 1e-6
    (above,), (below,) = f.call(x + step * x, SEED), f.call(x - step * x, SEED)
    slope = (above - below) / (2 * step)
    torch.testing.assert_close(slope, tangent, rtol=1e-4, atol=1e-4)


def test_dropout_in_attention_has_one_mask_for_value_and_gradient():
    # torch.func takes another kernel here, whose dropout draws otherwise.
    def fn(q, seed):
        return F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)

    q, c = torch.randn(2, 2, 5, 3, dtype=DOUBLE), torch.randn(2, 2, 5, 3, dtype=DOUBLE)
    f = op(fn, q, SEED, seed=1)
    split = f.derive("forward_backward", (0,), (0,))
    results = split.forward.call(q, SEED)
    close(results[:1], f.call(q, SEED))
    kept = backward(split, [q, SEED], results, [c], (0,))
    close(f.derive("vjp", (0,), (0,)).call(q, SEED, c), kept)
    step = 1e-6
    (near,) = f.call(q + step * q, SEED)
    slope = ((near - results[0]) * c).sum() / step
    torch.testing.assert_close(slope, (kept[0] * q).sum(), rtol=1e-3, atol=1e-3)
    batch = f.derive("vmap", (0, None), 3)
    close([y[1] for y in batch.call(torch.stack([q, q, q]), SEED)], results[:1])


def test_a_batch_that_would_draw_other_random_numbers_is_refused():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    x = torch.randn(2, 5, 8)
    f = op(lambda x, seed: layer(x), x, SEED, seed=1)
    with pytest.raises(NoRuleError, match="other random numbers from the same seed"):
        f.derive("vmap", (0, None), 2)


def test_a_seed_leaves_the_generator_of_torch_alone():
    x = torch.randn(5)
    f = op(seeded, x, SEED, seed=1)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    f.call(x, SEED)
    assert torch.equal(torch.rand(4), expected)


def test_capturing_leaves_the_generator_of_torch_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for capture in ("require", "never"):
        f = op(lambda x: F.dropout(x, 0.5), X, capture=capture)
    assert torch.equal(torch.rand(4), expected)
    assert f.output_specs() == (spec(X),)


def test_examples_share_the_seed_and_the_random_numbers():
    x, many = torch.randn(6), torch.randn(3, 6)
    f = op(lambda x, seed: x * torch.rand(6), x, SEED, seed=1)
    found = f.derive("vmap", (0, None), 3).call(many, SEED)
    close(found, [torch.stack([f.call(row, SEED)[0] for row in many])])
    seeds = torch.tensor([[17, 5], [3, 4], [2**32 - 1, 0]], dtype=torch.uint32)
    each = f.derive("vmap", (0, 0), 3).call(many, seeds)
    close(each, [torch.stack([f.call(*row)[0] for row in zip(many, seeds, strict=True)])])


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


# Functions that look at values.


def branch(x):
    return x * 2 if x.sum() > 0 else x.sin()


LOOKING = {
    "if": branch,
    "item": lambda x: x * x.sum().item(),
    "numpy": lambda x: x * torch.from_numpy(np.cos(x.detach().numpy())),
    "shape": lambda x: x.sum() * len(torch.unique(x.detach().round())),
    "list": lambda x: x * torch.tensor(x.tolist(), dtype=x.dtype),
}


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_runs_anew(fn):
    with pytest.warns(UserWarning, match="f cannot be captured as a graph") as caught:
        f = op(fn, X, capture="auto")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (X, -X.abs(), X.abs()):
            close(f.call(x), [fn(x)])
            c = like(fn(x), 3)
            gradients = f.derive("vjp", (0,), (0,))
            close(gradients.call(x, c), recorded(fn, [x], (0,), (0,), [c]))
            twice = gradients.derive("vjp", (0, 1), (0,)).call(x, c, X)
            free, ct = x.clone().requires_grad_(), c.clone().requires_grad_()
            (first,) = torch.autograd.grad(fn(free), free, ct, create_graph=True)
            expected = torch.autograd.grad((first * X).sum(), (free, ct), allow_unused=True)
            expected = [torch.zeros_like(X) if g is None else g for g in expected]
            close(twice, expected)


def test_what_looks_at_values_has_tangents():
    f = op(branch, X, capture="never")
    for x in (X.abs(), -X.abs()):
        expected = torch.func.jvp(branch, (x,), (X,))[1]
        close(f.derive("jvp", (0,)).call(x, X), [expected])


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_can_be_refused(fn):
    with pytest.raises(NoValuesError, match="f cannot be captured as a graph"):
        op(fn, X, capture="require")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op(fn, X, capture="never").call(X)


@pytest.mark.parametrize("fn", LOOKING.values(), ids=LOOKING)
def test_what_looks_at_values_is_batched_example_by_example(fn):
    f = op(fn, X, capture="never")
    rows = torch.stack([X, -X.abs(), X.abs() + 1])
    batch = f.derive("vmap", (1,), 3)
    close(batch.call(rows.mT), [torch.stack([fn(x) for x in rows])])
    cotangents = torch.stack([like(fn(x), 3) for x in rows])
    pairs = zip(rows, cotangents, strict=True)
    expected = [recorded(fn, [x], (0,), (0,), [c])[0] for x, c in pairs]
    (found,) = batch.derive("vjp", (0,), (0,)).call(rows.mT, cotangents)
    close([found.mT], [torch.stack(expected)])
    of_gradient = f.derive("vjp", (0,), (0,)).derive("vmap", (0, 0), 3)
    close(of_gradient.call(rows, cotangents), [torch.stack(expected)])


def test_tangents_of_gradients_of_what_looks_at_values():
    fn = lambda x: x**3 if x.sum() > 0 else x.sin()
    gradient = op(fn, X, capture="never").derive("vjp", (0,), (0,))
    tangents = gradient.derive("jvp", (0, 1))
    for x, first, second in (
        (X.abs(), 3 * X**2, 6 * X.abs()),
        (-X.abs(), X.cos(), X.abs().sin()),
    ):
        c, dx, dc = X.cos(), X.exp(), X.sin()
        close(tangents.call(x, c, dx, dc), [second * dx * c + first * dc])
        batch = tangents.derive("vmap", (None, None, 0, 0), 2)
        expected = second * dx * c + first * dc
        found = batch.call(x, c, torch.stack([dx, dx * 2]), torch.stack([dc, dc * 2]))
        close(found, [torch.stack([expected, 2 * expected])])


def test_hooks_in_what_looks_at_values_act_in_batches():
    def hooked(x):
        y = x * 1 if x.sum() > 0 else x * 2
        if y.requires_grad:
            y.register_hook(lambda g: g * 10)
        return y.sin()

    rows = torch.stack([X.abs(), -X.abs()])
    gradients = op(hooked, X, capture="never").derive("vmap", (0,), 2).derive("vjp", (0,), (0,))
    expected = torch.stack([10 * X.abs().cos(), 20 * (2 * X.abs()).cos()])
    close(gradients.call(rows, torch.ones_like(rows)), [expected])


@pytest.mark.parametrize("seen", [True, False])
def test_tangents_that_torch_ignores_are_refused_where_values_are_looked_at(seen):
    """torch.func.jvp has zeros for an operator of torch.library."""
    f = op(lambda x: cube(x) * x if seen or x.sum() > 100 else x * x, X, capture="never")
    x = X.abs() + 100
    close(f.derive("vjp", (0,), (0,)).call(x, X), [4 * x**3 * X])
    close([torch.func.jvp(cube, (x,), (X,))[1]], [0 * X])
    with pytest.raises(NoRuleError, match="no jvp of f: tangents and gradients disagree"):
        f.derive("jvp", (0,)).call(x, X)
    (second,) = f.derive("vjp", (0,), (0,)).derive("vjp", (0,), (0,)).call(x, X, X)
    close([second], [12 * x**2 * X**2])


def test_results_of_another_shape_than_inferred():
    f = op(lambda x: x[x > 0], X, capture="never")
    with pytest.raises(ArgumentError, match=r"f returned \(float64\[1\]\) for these values, but"):
        f.call(torch.tensor([1.0, -1, -1, -1], dtype=DOUBLE))


def test_random_numbers_of_a_function_that_runs_anew_need_a_seed():
    fn = lambda x: F.dropout(x, 0.5) * (1 if x.sum() > 0 else 2)
    with pytest.raises(NoRuleError, match="draws random numbers"):
        op(fn, X, capture="never").derive("vjp", (0,), (0,))
    f = op(lambda x, _: fn(x), X, SEED, capture="never", seed=1)
    (value,) = f.call(X, SEED)
    (gradient,) = f.derive("vjp", (0,), (0,)).call(X, SEED, torch.ones_like(X))
    close([gradient * X], [value])


def test_an_unknown_way_of_capturing():
    with pytest.raises(OptionError, match="capture='maybe' is neither"):
        SOURCE.check_options(capture="maybe")


# What a function may not do.


def test_an_argument_changed_in_place_is_the_functions_own():
    for capture in ("require", "never"):
        before = X.clone()
        op(lambda x: x.mul_(2).add_(1), X, capture=capture).call(X)
        assert torch.equal(X, before)


def test_a_tensor_kept_past_the_call_is_the_functions_own():
    kept = []

    def fn(x):
        kept.append(x)
        return x * 2

    x = X.clone()
    (y,) = op(fn, x, capture="never").call(x)
    kept[-1].zero_()
    assert torch.equal(x, X)
    assert torch.equal(y, 2 * X)


def test_results_that_are_a_kept_tensor_are_copied():
    state = torch.zeros(3)
    f = op(lambda x: state, X, capture="never")
    f.call(X)[0].fill_(7)
    assert not state.any()


@pytest.mark.parametrize("capture", ["auto", "require"])
def test_a_closed_over_tensor_is_not_changed(capture):
    norm = torch.nn.BatchNorm1d(3, dtype=DOUBLE)
    counter = torch.zeros(())

    def count(x):
        counter.add_(1)
        return x + counter

    with pytest.raises(ArgumentError, match="f changes a tensor"):
        op(norm, torch.randn(4, 3, dtype=DOUBLE), capture=capture)
    with pytest.raises(ArgumentError, match=r"float32\[\]\) in place that is none of its"):
        op(count, X, capture=capture)
    mean, variance = torch.zeros(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    plain = lambda x: F.batch_norm(x, mean, variance, training=True)
    with pytest.raises(ArgumentError, match="f changes a tensor"):
        op(plain, torch.randn(4, 3, dtype=DOUBLE), capture=capture)
    assert int(norm.num_batches_tracked) == 0
    assert not counter.any()
    assert not mean.any()


def test_a_closed_over_parameter_is_a_constant_of_its_current_value():
    layer = torch.nn.Linear(4, 2, dtype=DOUBLE)
    f = op(layer, X)
    close(f.call(X), [layer(X)])
    with torch.no_grad():
        layer.weight.mul_(2)
    close(f.call(X), [layer(X)])
    split = f.derive("forward_backward", (0,), (0,))
    results = split.forward.call(X)
    c = torch.randn(2, dtype=DOUBLE)
    close(backward(split, [X], results, [c], (0,)), [c @ layer.weight])
    assert not results[0].requires_grad
    assert layer.weight.grad is None


def test_batch_norm_with_its_statistics_as_arguments():
    def fn(x, mean, variance):
        y = F.batch_norm(x, mean, variance, training=True, momentum=0.3)
        return y, mean, variance

    xs = [torch.randn(6, 3, dtype=DOUBLE), torch.zeros(3).double(), torch.ones(3).double()]
    f = op(fn, *xs)
    close(f.call(*xs), fn(*(x.clone() for x in xs)))
    c = torch.randn(6, 3, dtype=DOUBLE)
    split = f.derive("forward_backward", (0,), (0,))
    found = backward(split, xs, split.forward.call(*xs), [c], (0,))
    close(found, recorded(fn, xs, (0,), (0,), [c]))
    assert xs[2].eq(1).all()


RESULTS = {
    "str": (lambda x: "text", "result 0 of f is a str, not a tensor or a number"),
    "None": (lambda x: [x, None], "result 1 of f is a NoneType, not a tensor or a number"),
    "sparse": (
        lambda x: x.to_sparse(),
        "result 0 of f cannot cross: it is sparse|sparse or nested",
    ),
}


@pytest.mark.parametrize(("fn", "text"), RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("capture", ["require", "never"])
def test_results_that_cannot_cross(fn, text, capture):
    with pytest.raises(TypeError, match=text):
        op(fn, X, capture=capture)


class MineError(Exception):
    pass


@pytest.mark.parametrize("capture", ["auto", "require", "never"])
def test_an_error_of_the_function_stays_as_it_is(capture):
    def fn(x):
        raise MineError(f"{x.shape} is wrong")

    with pytest.raises(MineError, match=r"torch.Size\(\[4\]\) is wrong"):
        op(fn, X, capture=capture)
    f = op(lambda x: x * 2, X, capture=capture)
    close(f.call(X), [2 * X])


# The state of torch.


def ambient(x):
    made = torch.ones(3) * 0.5 + torch.tensor(2.0)
    return x @ x.mT, made, torch.zeros(2)


def under(context):
    return lambda call: (context.__enter__(), call(), context.__exit__(None, None, None))[1]


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


# Dtypes, reach, lifetimes, threads.

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
    found = op(fn, *xs).dependencies()
    assert [set(positions) for positions in found] == [{0, 1}, set(), {1, 2}, set(), {3}]


def test_captured_once():
    runs = []
    record = runs.append  # not looked into, so that runs that leave no trace are seen

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


# Arrays at home.


def test_borrowed_memory_is_shared():
    x = np.arange(6.0).reshape(2, 3)
    (found,) = HOME.borrower("cpu")([x])
    assert found.data_ptr() == x.ctypes.data
    assert found.tolist() == x.tolist()


def test_borrowed_memory_that_is_read_only_is_copied():
    x = np.arange(6.0)
    x.flags.writeable = False
    (found,) = HOME.borrower("cpu")([x])
    found.zero_()
    assert x.tolist() == [0, 1, 2, 3, 4, 5]


def test_released_memory_is_shared():
    x = torch.randn(3)
    (capsule,) = HOME.releaser("cpu")([x])
    assert torch.utils.dlpack.from_dlpack(capsule).data_ptr() == x.data_ptr()


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
