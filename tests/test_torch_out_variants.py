"""Results of torch that are written straight to where XLA wants them."""

import importlib

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import torch

from bridge import torch2jax
from tests.handmade import spec

filling = importlib.import_module("bridge._arrays.torch.execute")
tensors = importlib.import_module("bridge._arrays.torch.backend")
jnp = jax.numpy

# A result of another shape than every argument cannot take their place.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
functional = torch.nn.functional
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(4, 6)).astype("float32")
Y = RANDOM.normal(size=(4, 6)).astype("float32")
W = torch.tensor(RANDOM.normal(size=(6, 6)).astype("float32"))
FUNCTIONS = {
    "one operator": lambda x, y: torch.sin(x) * y,
    "a number": lambda x, y: x + 1,
    "a product": lambda x, y: x @ W,
    "a view of a product": lambda x, y: functional.linear(x.view(2, 2, 6), W, y[0]),
    "a transposed product": lambda x, y: (x @ W).T,
    "a transposed detour": lambda x, y: (torch.sin(x.T).T, (x.T + y.T).permute(1, 0)),
    "an argument": lambda x, y: (y, x),
    "an argument twice": lambda x, y: (x, x.T, x[1:], x),
    "a result of a result": lambda x, y: ((z := x.exp()), z.cos() + x, z * y),
    "a result twice": lambda x, y: ((z := x.exp()), z, z.view(-1), z.T),
    "a part of a result": lambda x, y: ((z := x * y)[1:], z.sum()),
    "a result and its view": lambda x, y: ((z := x * y).view(-1), z + 1),
    "another dtype": lambda x, y: (x.half(), (x * y).bfloat16(), x > y, x.int()),
    "complex": lambda x, y: ((z := torch.complex(x, y)).conj(), z.imag, z * z, z.abs()),
    "negated": lambda x, y: (torch.complex(x, y).conj().imag, x.neg()),
    "sums": lambda x, y: (x.sum(), x.sum(0), y.amax(1), x.mean(1, keepdim=True)),
    "several results of one operator": lambda x, y: (*torch.sort(x)[:1], *x.max(1)[:1]),
    "spread": lambda x, y: (x[0].expand(4, 6), x[:, :1] + y),
    "joined": lambda x, y: (torch.cat([x, y]), torch.stack([x, y], 2), torch.flip(x, [0])),
    "normalized": lambda x, y: (functional.layer_norm(x, [6]), torch.softmax(y, 1), x.relu()),
    "chosen": lambda x, y: (torch.where(x > 0, x, y), x[[2, 0]], x.gather(1, (y > 0).long())),
    "in place": lambda x, y: (x.add_(y), y.mul_(2), x.cumsum(1)),
    "made": lambda x, y: (torch.zeros(3), torch.full((2,), 7.0), torch.arange(3.0)),
    "losses": lambda x, y: (
        functional.mse_loss(x, y),
        functional.huber_loss(x, y, reduction="sum"),
        functional.smooth_l1_loss(x, y),
        functional.soft_margin_loss(x, y),
        functional.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        functional.multi_margin_loss(x, torch.tensor([0, 1, 2, 3])),
    ),
    "nothing": lambda x, y: (x[:0] + 1, y.sum()),
}


def native(fn):
    found = fn(torch.tensor(X), torch.tensor(Y))
    return [
        y.resolve_conj().resolve_neg() for y in (found if isinstance(found, tuple) else (found,))
    ]


def equal(mine, theirs, rtol=1e-6):
    mine = mine if isinstance(mine, tuple) else (mine,)
    for got, expected in zip(mine, theirs, strict=True):
        number = expected.float() if expected.dtype == torch.bfloat16 else expected
        np.testing.assert_allclose(np.asarray(got).astype(number.numpy().dtype), number, rtol)


@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
def test_results_equal_those_of_torch(fn):
    f = torch2jax(fn)
    for donated in ((), (0,), (0, 1)):
        call = jax.jit(lambda x, y: f(x, y), donate_argnums=donated)
        equal(call(jnp.array(X), jnp.array(Y)), native(fn))


def test_a_loop_over_its_own_results():
    f = torch2jax(lambda x, y: (x.sin() + y, x.cos() * x, x @ W))
    g = lambda x, y: (jnp.sin(x) + y, jnp.cos(x) * x, x @ jnp.asarray(W.numpy()))

    def loop(h):
        step = lambda c, _: (h(*c)[:2], h(*c)[2])
        return jax.jit(lambda x, y: jax.lax.scan(step, (x, y), None, length=5), donate_argnums=0)

    mine, theirs = (jax.tree.leaves(loop(h)(jnp.array(X), jnp.array(Y))) for h in (f, g))
    for got, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_gradients_and_batches():
    f = torch2jax(lambda x, y: (torch.tanh(x @ W) * y).cumsum(1))
    g = lambda x, y: (jnp.tanh(x @ jnp.asarray(W.numpy())) * y).cumsum(1)
    loss = lambda h: lambda x, y: (h(x, y) ** 2).sum()
    for make in (
        lambda h: jax.grad(loss(h), (0, 1)),
        lambda h: jax.hessian(loss(h), 1),
        lambda h: lambda x, y: jax.vmap(jax.grad(loss(h)))(jnp.stack([x, y]), jnp.stack([y, x])),
    ):
        mine, theirs = (jax.tree.leaves(jax.jit(make(h))(X, Y)) for h in (f, g))
        for got, expected in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_random_numbers_stay_the_same(monkeypatch):
    f = lambda x: (torch.rand_like(x), functional.dropout(x), torch.randn(3))
    key = jax.random.key(3)
    placed = torch2jax(f)(X, rng=key)
    monkeypatch.setattr(filling, "_no_overlap", lambda places, xs: False)
    for got, expected in zip(placed, torch2jax(f)(X, rng=key), strict=True):
        np.testing.assert_array_equal(got, expected)


def written(fn, monkeypatch):
    """Which results were written where they belong, and whether XLA lent memory twice."""
    found = []
    fill = tensors.execute_into

    def watched(op, operands, results):
        xs, places = ([filling.tensor_from_buffer(x) for x in row] for row in (operands, results))
        outputs = op.traits.call_into(places, xs)
        row = [y.data_ptr() == place.data_ptr() for y, place in zip(outputs, places, strict=True)]
        found.append((row, filling._no_overlap(places, xs)))
        fill(op, operands, results)

    monkeypatch.setattr(tensors, "execute_into", watched)
    jax.block_until_ready(jax.jit(torch2jax(fn), donate_argnums=(0, 1))(X, Y))
    return found


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        *(("one operator", [True]), ("a number", [True]), ("a product", [True])),
        *(("a view of a product", [True]), ("an argument twice", [True] * 4)),
        *(("a result of a result", [True] * 3), ("a result twice", [True] * 4)),
        *(("sums", [False, True, True, True]), ("joined", [True, True, False])),
        *(("a part of a result", [False, False]), ("another dtype", [True] * 4)),
    ],
)
def test_what_is_written_in_place(name, rows, monkeypatch):
    assert written(FUNCTIONS[name], monkeypatch) == [(rows, True)]


@pytest.mark.parametrize("shift", [0, 2, -2])
def test_a_place_that_an_argument_lies_in_is_written_last(shift):
    from bridge._sources.torch import SOURCE

    memory = np.linspace(0.1, 1.0, 10, dtype="float32")
    x, place, other = memory[2:8], memory[2 + shift : 8 + shift], np.zeros(6, np.float32)
    expected = np.exp(x), np.sin(x)
    like = spec(torch.ones(6))
    op = SOURCE.make_op(
        lambda x: [x.exp(), x.sin()],
        name="f",
        primals=(like,),
        argument_names=["x"],
        capture="require",
    )
    tensors.ARRAYS.execute_into(op, [x], [place, other], None)
    np.testing.assert_allclose(place, expected[0], rtol=1e-6)
    np.testing.assert_allclose(other, expected[1], rtol=1e-6)


def test_shared_memory_is_found_among_many_arguments():
    memory, random = torch.zeros(64, dtype=torch.uint8), np.random.default_rng(0)

    def slices():
        bounds = np.sort(random.integers(0, 64, (random.integers(1, 5), 2)))
        return [(memory[first:last], {*range(first, last)}) for first, last in bounds]

    verdicts = set()
    for _ in range(500):
        targets, xs = slices(), slices()
        shared = set().union(*(y for _, y in targets)) & set().union(*(x for _, x in xs))
        verdicts.add(bool(shared))
        assert filling._no_overlap([y for y, _ in targets], [x for x, _ in xs]) or shared
        if shared:
            assert not filling._no_overlap([y for y, _ in targets], [x for x, _ in xs])
    assert verdicts == {True, False}
