"""Labels and indices, which torch wants in 64 bits and which callers have in 32."""

import functools
import pickle

import numpy as np
import pytest

from bridge import torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
F, nn = torch.nn.functional, torch.nn

X = np.random.default_rng(7).normal(size=(4, 5)).astype("float32")
LABELS = np.array([0, 3, 4, 2], "int32")


def loss(x, labels):
    return F.cross_entropy(2 * x, labels)


def native_gradient(fn, *indices):
    x = torch.tensor(X, requires_grad=True)
    fn(x, *map(torch.tensor, indices)).sum().backward()
    return x.grad


WAYS = {
    "graph": {},
    "rerun": {"capture": "never"},
    "xla": {"lower": "xla"},
}
FUNCTIONS = {
    "cross_entropy": (loss, LABELS),
    "nll_loss": (lambda x, i: F.nll_loss(x.log_softmax(1), i), LABELS),
    "multi_margin_loss": (F.multi_margin_loss, LABELS),
    "take": (lambda x, i: torch.take(x, i) ** 2, LABELS),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i, 1) ** 2, LABELS[:, None]),
    "gather": (lambda x, i: x.gather(1, i) ** 2, LABELS[:, None]),
    "scatter": (lambda x, i: x.scatter(1, i, 0.5) ** 2, LABELS[:, None]),
    "index_fill": (lambda x, i: x.index_fill(1, i, 0.5) ** 2, LABELS),
    "index_copy": (lambda x, i: x.index_copy(1, i, 2 * x[:, :4]) ** 2, LABELS),
    "one_hot": (lambda x, i: x**2 * F.one_hot(i, 5), LABELS),
    "tensor_split": (lambda x, i: torch.tensor_split(x, 2)[0] ** 2 * i.sum(), LABELS),
    "indexing": (lambda x, i: x[i - 1] ** 2, LABELS),
}


@functools.cache
def records_one_hot():
    """Return True if torch records the gradient of a function with `one_hot` without values."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    slope = torch.func.grad(lambda x, i: (x**2 * F.one_hot(i, 5)).sum())
    try:
        make_fx(slope, tracing_mode="symbolic")(torch.tensor(X), torch.tensor(LABELS).long())
    except GuardOnDataDependentSymNode:
        return False
    return True


@pytest.mark.parametrize("dtype", ["int32", "uint32"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_widened_labels_equal_native_ones(name, way, dtype):
    fn, indices = FUNCTIONS[name]
    if name == "one_hot" and way != "rerun" and not records_one_hot():
        pytest.skip("this torch looks at values for one_hot")  # as 2.11 does
    there = torch2jax(fn, integers="int64", **WAYS[way])
    total = lambda x, i: there(x, i).sum()
    found = jax.jit(jax.grad(total))(X, jnp.asarray(indices.astype(dtype)))
    np.testing.assert_allclose(found, native_gradient(fn, indices.astype("int64")), rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*cannot be captured")
def test_widened_labels_in_batches(way):
    there = torch2jax(lambda x, i: F.cross_entropy(x, i), integers="int64", **WAYS[way])
    batch, labels = np.stack([X, X**2]), np.stack([LABELS, LABELS[::-1]])
    found = jax.vmap(jax.value_and_grad(there))(batch, jnp.asarray(labels))
    for i in range(2):
        x = torch.tensor(batch[i], requires_grad=True)
        value = F.cross_entropy(x, torch.tensor(labels[i].astype("int64")))
        value.backward()
        np.testing.assert_allclose(found[0][i], value.detach(), rtol=1e-5)
        np.testing.assert_allclose(found[1][i], x.grad, rtol=1e-4, atol=1e-6)


def test_widened_labels_in_mlx():
    mx = pytest.importorskip("mlx.core")
    there = torch2mlx(loss, integers="int64")
    value, gradient = mx.value_and_grad(there)(mx.array(X), mx.array(LABELS))
    np.testing.assert_allclose(gradient, native_gradient(loss, LABELS.astype("int64")), rtol=1e-4)
    assert there(mx.array(X), mx.array(LABELS.astype("int64"))) == value


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint32", "bool"])
@pytest.mark.parametrize("integers", ["as they are", "int64"])
@pytest.mark.parametrize("array", ["jax", "numpy"])
def test_integers_of_32_bits_alone_are_widened(kind, integers, array):
    seen = []

    def spy(x):
        seen.append(str(x.dtype))
        return x.float()

    there = torch2jax(spy, integers=integers, capture="never")
    with jax.enable_x64(True):
        x = np.array([0, 1], kind)
        there(jnp.asarray(x) if array == "jax" else x)
    is_widened = integers == "int64" and kind in ("int32", "uint32")
    assert {*seen} == {"torch.int64" if is_widened else f"torch.{kind}"}


def test_integers_in_trees_and_keywords_are_widened():
    seen = {}

    def spy(tree, *, more, number=2):
        seen.update(tree=tree["i"][0].dtype, more=more.dtype, number=number)
        return tree["x"] * more

    i = jnp.asarray(LABELS[:1])
    there = torch2jax(spy, integers="int64", capture="never")
    there({"i": [i], "x": jnp.ones(1)}, more=i, number=3)
    assert seen == {"tree": torch.int64, "more": torch.int64, "number": 3}


def test_a_sum_is_computed_in_64_bits():
    there = torch2jax(lambda i: (i * 4).sum() // 8, integers="int64")
    many = np.full(3, 2**30, "int32")
    assert there(jnp.asarray(many)) == 3 * 2**29


class Counting(nn.Module):
    """A classifier with a table and a count of 32 bits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.register_buffer("count", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("order", torch.tensor([4, 2, 0, 1, 3], dtype=torch.int32))
        self.dtypes = ()

    def forward(self, x, labels, params=None):
        self.count += len(labels)
        assert (self.count.dtype, labels.dtype) == (torch.int32, torch.int64)
        assert params is None or params.dtype == torch.int64
        return F.cross_entropy(self.layer(x)[:, self.order], labels)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_tensors_of_a_module_keep_their_dtypes(way, x64):
    module = Counting()
    with jax.enable_x64(x64):
        there = torch2jax(module, integers="int64", **WAYS[way])
        objective = lambda params: there.apply(params, there.buffers, X, jnp.asarray(LABELS))
        gradients, buffers = jax.grad(objective, has_aux=True)(there.params)
    assert {name: x.dtype for name, x in buffers.items()} == {"count": "int32", "order": "int32"}
    assert buffers["count"] == 4
    module(torch.tensor(X), torch.tensor(LABELS).long()).backward()
    np.testing.assert_allclose(gradients["layer.weight"], module.layer.weight.grad, rtol=1e-4)


def test_parameters_and_buffers_are_names_of_arguments_too():
    there = torch2jax(lambda params, buffers: torch.take(params, buffers), integers="int64")
    np.testing.assert_array_equal(there(X, jnp.asarray(LABELS)), X.ravel()[LABELS])


def test_a_key_is_not_widened():
    there = torch2jax(lambda x, i: F.dropout(x)[i], integers="int64")
    x, i, key = jnp.ones(50), jnp.arange(50), jax.random.key(3)
    np.testing.assert_array_equal(there(x, i, rng=key), there(x, i, rng=key))


def test_the_option_is_in_repr_and_pickles():
    there = torch2jax(loss, integers="int64")
    assert "integers='int64'" in repr(there)
    assert "integers" not in repr(torch2jax(loss))
    back = pickle.loads(pickle.dumps(there))
    np.testing.assert_allclose(back(X, jnp.asarray(LABELS)), there(X, jnp.asarray(LABELS)))


@pytest.mark.parametrize("wrap", [torch2jax, torch2mlx])
@pytest.mark.parametrize("integers", ["int32", None, True, torch.int64])
def test_other_values_of_the_option_are_refused(wrap, integers):
    with pytest.raises(ValueError, match='is neither "as they are" nor "int64"'):
        wrap(loss, integers=integers)


REFUSED = {
    "cross_entropy": (loss, LABELS),
    "nll_loss": (lambda x, i: F.nll_loss(x, i), LABELS),
    "multilabel_margin_loss": (F.multilabel_margin_loss, np.tile(LABELS[:1], (4, 5))),
    "take": (torch.take, LABELS),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i, 1), LABELS[:, None]),
    "index_fill": (lambda x, i: x.index_fill(1, i, 0.5), LABELS),
    "index_copy": (lambda x, i: x.index_copy(1, i, x[:, :4]), LABELS),
    "put": (lambda x, i: torch.put(x, i, x[:, 0]), LABELS),
    "tensor_split": (lambda x, i: torch.tensor_split(x[:, 0], i)[0], LABELS[:1]),
    "embedding": (lambda x, i: F.embedding(i, x), LABELS.astype("uint32")),
    "gather": (lambda x, i: x.gather(1, i), LABELS[:, None].astype("uint32")),
}


# A newer torch decomposes them into operators that take integers of 32 bits.
DECOMPOSED = {"multilabel_margin_loss"}


def advice(error):
    return str(error) + " ".join(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*cannot be captured")
def test_errors_of_torch_advise_the_option(name, jit, capture):
    fn, indices = REFUSED[name]
    there = torch2jax(fn, capture=capture)
    try:
        result = jax.block_until_ready((jax.jit(there) if jit else there)(X, jnp.asarray(indices)))
    except (RuntimeError, IndexError, AssertionError) as raised:
        error = raised
    else:
        error = None
    if error is not None:
        assert 'integers="int64"' in advice(error)
        assert sum("integers" in note for note in getattr(error, "__notes__", ())) <= 1
    else:
        assert name in DECOMPOSED
        expected = fn(torch.tensor(np.asarray(X)), torch.tensor(indices).long())
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_errors_in_mlx_advise_the_option():
    mx = pytest.importorskip("mlx.core")
    with pytest.raises(RuntimeError) as raised:
        torch2mlx(loss)(mx.array(X), mx.array(LABELS))
    assert 'integers="int64"' in advice(raised.value)


OTHERS = {
    "shapes": (lambda x, i: x @ x, LABELS, {}),
    "no integers": (lambda x, i: torch.take(x, i.int()), X[:, 0], {}),
    "its own integers": (lambda x, i: torch.take(x, i.int()), LABELS, {"integers": "int64"}),
    "a condition": (lambda x, i: torch.where(i, x, x), LABELS[:, None], {}),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("capture", ["auto", "never"])
def test_other_errors_do_not(name, capture):
    fn, indices, options = OTHERS[name]
    with pytest.raises(RuntimeError) as raised:
        torch2jax(fn, capture=capture, **options)(X, jnp.asarray(indices))
    assert "integers=" not in advice(raised.value)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_of_smaller_labels_an_error_says_what_to_convert_them_to(dtype):
    with pytest.raises(RuntimeError) as raised:
        torch2jax(loss)(jnp.asarray(X), jnp.asarray(LABELS, dtype))
    (note,) = (x for x in raised.value.__notes__ if "integers of 8 or 16 bits" in x)
    assert "Convert them to int32" in note
    labels = jnp.asarray(LABELS, dtype).astype("int32")
    y = torch2jax(loss, integers="int64")(jnp.asarray(X), labels)
    native = loss(torch.tensor(X), torch.tensor(LABELS).long())
    np.testing.assert_allclose(y, native, rtol=1e-6)
