"""Random numbers of MLX functions: from a key, or from torch's generator."""

import numpy as np
import pytest

from bridge import ArgumentError, mlx2jax, mlx2torch, torch2mlx

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")

from tests.mlx_functions import every_way  # noqa: E402

X = torch.arange(1.0, 65.0)


def dropped(x):
    return mx.random.bernoulli(0.5, x.shape) * x * x


def leaf():
    return X.clone().requires_grad_()


@every_way
def test_the_seed_of_torch_decides_the_mask(how):
    f = mlx2torch(dropped, **how)
    torch.manual_seed(3)
    one, other = f(X), f(X)
    torch.manual_seed(3)
    again = f(X), f(X)
    torch.testing.assert_close(again, (one, other))
    assert not torch.equal(one, other)


@every_way
def test_every_derivative_has_the_mask_of_the_value(how):
    f, x = mlx2torch(dropped, **how), leaf()
    for _ in range(2):
        y = f(x)
        mask = (y != 0).float()
        assert 0 < mask.sum() < 64
        for _ in range(2):  # the second pass recomputes
            (g,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
            torch.testing.assert_close(g, 2 * X * mask)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], 2 * mask)


@every_way
def test_tangents_have_the_mask_of_the_value(how):
    y, tangent = torch.func.jvp(mlx2torch(dropped, **how), (X,), (torch.ones(64),))
    torch.testing.assert_close(tangent, 2 * X * (y != 0))


def test_a_checkpoint_draws_the_same_again():
    x = leaf()
    y = torch.utils.checkpoint.checkpoint(mlx2torch(dropped), x, use_reentrant=False)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * X * (y != 0))


def test_batches_draw_as_torch_func_is_told():
    f, rows = mlx2torch(dropped), torch.stack([X, X])
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(f)(rows)
    same = torch.func.vmap(f, randomness="same")(rows)
    assert torch.equal(same[0], same[1])
    different = torch.func.vmap(f, randomness="different")(rows)
    assert not torch.equal(different[0], different[1])


def test_a_key_decides_the_mask():
    f = mlx2torch(dropped)
    one = f(X, rng=torch.tensor(5))
    assert torch.equal(one, f(X, rng=torch.tensor(5)))
    assert not torch.equal(one, f(X, rng=torch.tensor(6)))


def test_every_word_of_a_key_counts():
    f = mlx2torch(dropped)
    keys = [torch.tensor(key) for key in ([1, 2, 3], [2, 2, 3], [1, 3, 3], [1, 2, 4])]
    keys += [torch.tensor(k, dtype=torch.int8) for k in (1, 2)] + [torch.tensor(2**40)]
    assert len({tuple((f(X, rng=key) != 0).tolist()) for key in keys}) == len(keys)


def test_the_key_of_mlx_is_left_alone():
    mx.random.seed(1)
    expected = mx.random.normal((4,)).tolist()
    mx.random.seed(1)
    mlx2torch(dropped)(X)
    assert mx.random.normal((4,)).tolist() == expected


def test_a_key_of_two_words_is_that_of_mlx():
    key = mx.random.key(7)
    expected = mx.random.bernoulli(0.5, (64,), key=mx.random.split(key)[1])
    found = mlx2torch(dropped)(X, rng=torch.tensor(key.tolist(), dtype=torch.uint32))
    assert (found != 0).tolist() == expected.tolist()


def test_compiled_code_takes_a_key_or_draws_in_the_graph():
    f, x = mlx2torch(dropped), leaf()
    compiled = torch.compile(lambda x, key: f(x, rng=key), fullgraph=True, backend="aot_eager")
    y = compiled(x, torch.tensor(5))
    assert torch.equal(y, f(x, rng=torch.tensor(5)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * X * (y != 0))
    drawing = torch.compile(lambda x: f(x), fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    x.grad, y, other = None, drawing(x), drawing(x)
    assert not torch.equal(y, other)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 2 * X * (y != 0))
    torch.manual_seed(3)
    assert torch.equal(drawing(x), y)


def test_jax_needs_a_key_and_a_gradient_has_its_mask():
    jax = pytest.importorskip("jax")
    f, x, key = mlx2jax(dropped), jax.numpy.asarray(X.numpy()), jax.random.key(3)
    with pytest.raises(ArgumentError, match=r"dropped draws random numbers.*`rng=`"):
        f(x)
    y = f(x, rng=key)
    g = jax.jit(jax.grad(lambda x: f(x, rng=key).sum()))(x)
    np.testing.assert_allclose(g, np.where(np.asarray(y) != 0, 2 * x, 0))
    keys = jax.random.split(key, 3)
    rows = jax.vmap(lambda key: f(x, rng=key))(keys)
    for row, alone in zip(rows, keys, strict=True):
        np.testing.assert_array_equal(row, f(x, rng=alone))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (3, "argument `rng` of noisy is no array"),
        (torch.Generator(), "argument `rng` of noisy is no array"),
        (torch.tensor([0.5]), "argument `rng` of noisy is of float32"),
        (torch.tensor(True), "argument `rng` of noisy is of bool"),
    ],
    ids=["number", "generator", "float", "bool"],
)
def test_what_is_no_key_is_refused(key, text):
    def noisy(x):
        return x * mx.random.uniform(shape=x.shape)

    with pytest.raises(ArgumentError, match=f"{text}.*integers"):
        mlx2torch(noisy)(torch.ones(3), rng=key)


def test_no_key_is_as_if_none_were_passed():
    f = mlx2torch(lambda x: x * mx.random.uniform(shape=x.shape))
    torch.manual_seed(3)
    first = f(torch.ones(3))
    torch.manual_seed(3)
    torch.testing.assert_close(f(torch.ones(3), rng=None), first)
    plain = mlx2torch(mx.sin)
    torch.testing.assert_close(plain(torch.ones(3), rng=None), torch.ones(3).sin())
    with pytest.raises(ArgumentError, match=r"draws random numbers.*`rng=`"):
        torch2mlx(lambda x: torch.nn.functional.dropout(x, 0.5))(mx.ones(3), rng=None)
