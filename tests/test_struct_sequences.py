"""Results of torch in classes written in C, as those of torch.max: named tuples for callers."""

import pickle

import numpy as np
import pytest

from bridge import ArgumentError, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

from tests.torch_in_jax import modes  # noqa: E402

X = np.array([[2.0, -1.0], [0.5, 3.5]], np.float32)
FUNCTIONS = {
    "qr": torch.linalg.qr,
    "eigh": lambda x: torch.linalg.eigh(x @ x.mT),
    "slogdet": torch.linalg.slogdet,
    "sort": lambda x: torch.sort(x),
    "max": lambda x: x.max(-1),
}
INDICES = ("sort", "max")  # of 64 bits, which compiled code refuses


def close(found, expected):
    for name, y in zip(found._fields, found, strict=True):
        np.testing.assert_allclose(y, getattr(expected, name), rtol=1e-5, atol=1e-6)


@modes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_named_tuples_with_the_same_fields(name, options):
    if name in INDICES and "lower" in options:
        pytest.skip("indices have 64 bits")
    fn = FUNCTIONS[name]
    f, expected = torch2jax(fn, **options), fn(torch.tensor(X))
    for call in (f, jax.jit(f)):
        found = call(X)
        assert type(found).__name__ == type(expected).__name__
        assert len(jax.tree.leaves(found)) == len(expected)
        close(found, expected)
    close(jax.tree.map(lambda y: y[0], jax.vmap(f)(X[None])), expected)


@modes
def test_gradients_go_through_them(options):
    def loss(x):
        found = torch2jax(torch.linalg.slogdet, **options)(x)
        return found.logabsdet * found.sign

    x = torch.tensor(X, requires_grad=True)
    there = torch.linalg.slogdet(x)
    (there.logabsdet * there.sign).backward()
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(X), x.grad, rtol=1e-5)


def test_within_other_containers_and_in_pickles():
    f = torch2jax(lambda x: {"top": [x.max(0), x.min()], "rest": (x.sort(),)})
    found = jax.jit(f)(X)
    assert [type(found["top"][0]).__name__, type(found["rest"][0]).__name__] == ["max", "sort"]
    assert jax.tree.structure(found) == jax.tree.structure(f(X))
    again = pickle.loads(pickle.dumps(found["top"][0]))
    assert type(again) is type(found["top"][0])
    np.testing.assert_array_equal(again.values, found["top"][0].values)


@modes
def test_a_loop_carries_them(options):
    f = torch2jax(lambda x: torch.linalg.slogdet(x), **options)
    step = lambda carry, _: (f(X * carry.logabsdet / 2), None)
    found, _ = jax.lax.scan(step, f(X), None, 2)
    assert found._fields == ("sign", "logabsdet")


@pytest.mark.filterwarnings("ignore:.*cannot be captured")
def test_a_packed_sequence_is_refused_by_name():
    pack = torch.nn.utils.rnn.pack_padded_sequence
    for options in ({}, {"capture": "never"}):
        f = torch2jax(lambda x: pack(x[None], [2], batch_first=True), **options)
        with pytest.raises(ArgumentError, match=r"rnn\.PackedSequence, which holds.*tuple\(\)"):
            f(X)
    g = torch2jax(lambda x: tuple(pack(x[None], [2], batch_first=True)), capture="never")
    np.testing.assert_array_equal(g(X)[0], X)


def test_in_mlx():
    mx = pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    f, x = torch2mlx(lambda x: x.max(-1)), mx.array(X)
    assert f(x)._fields == ("values", "indices")
    assert mx.vmap(f)(x[None]).values.tolist() == [[2.0, 3.5]]
    _, gradient = mx.value_and_grad(lambda x: f(x).values.sum())(x)
    assert gradient.tolist() == [[1, 0], [0, 1]]
