"""Random numbers of Ops of torch: of one seed in values, derivatives and batches."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from bridge._core.errors import NoRuleError  # noqa: E402
from tests.torch_ops import backward, close, op, spec  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.2, 0.7, 1.6], dtype=DOUBLE)


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
    f = op(seeded, x, SEED, seed_argnum=1)
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
    f = op(fn, q, SEED, seed_argnum=1)
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
    f = op(lambda x, seed: layer(x), x, SEED, seed_argnum=1)
    with pytest.raises(NoRuleError, match="other random numbers from the same seed"):
        f.derive("vmap", (0, None), 2)


def test_a_seed_leaves_the_generator_of_torch_alone():
    x = torch.randn(5)
    f = op(seeded, x, SEED, seed_argnum=1)
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
    f = op(lambda x, seed: x * torch.rand(6), x, SEED, seed_argnum=1)
    found = f.derive("vmap", (0, None), 3).call(many, SEED)
    close(found, [torch.stack([f.call(row, SEED)[0] for row in many])])
    seeds = torch.tensor([[17, 5], [3, 4], [2**32 - 1, 0]], dtype=torch.uint32)
    each = f.derive("vmap", (0, 0), 3).call(many, seeds)
    close(each, [torch.stack([f.call(*row)[0] for row in zip(many, seeds, strict=True)])])


def test_random_numbers_of_a_function_that_runs_anew_need_a_seed():
    fn = lambda x: F.dropout(x, 0.5) * (1 if x.sum() > 0 else 2)
    with pytest.raises(NoRuleError, match="draws random numbers"):
        op(fn, X, capture="never").derive("vjp", (0,), (0,))
    f = op(lambda x, _: fn(x), X, SEED, capture="never", seed_argnum=1)
    (value,) = f.call(X, SEED)
    (gradient,) = f.derive("vjp", (0,), (0,)).call(X, SEED, torch.ones_like(X))
    close([gradient * X], [value])
