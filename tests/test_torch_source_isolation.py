"""What a function of torch may do to its arguments, and what it may not do to others."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from bridge._core.errors import ArgumentError  # noqa: E402
from tests.torch_ops import backward, close, op, recorded  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.2, 0.7, 1.6], dtype=DOUBLE)


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
