"""Functions of torch that compute with sparse or nested tensors."""

import warnings

import numpy as np
import pytest

from bridge import ArgumentError, NoValuesError, torch2jax
from tests.conftest import DIRECTIONS

torch = pytest.importorskip("torch")

OF_TORCH = pytest.mark.parametrize(
    "kits", [d for d in DIRECTIONS if d[0] == "torch"], ids="2".join, indirect=True
)
X = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], "float32")
W = np.array([[1.0, 2.0], [0.5, 1.0], [3.0, -1.0]], "float32")
VALUES = np.array([1.0, -2.0, 3.0], "float32")
AT = torch.tensor([[0, 0, 1], [0, 2, 1]])
ROWS = torch.tensor([0, 2, 0])
ADJACENCY = torch.tensor(X).to_sparse()


def rows(x):
    return torch.nn.functional.embedding(ROWS, x, sparse=True)


def bags(x):
    return torch.nn.functional.embedding_bag(ROWS, x, torch.tensor([0, 1]), mode="sum", sparse=True)


FUNCTIONS = {
    "coo": (lambda x: x.to_sparse().to_dense() ** 2, [X]),
    "csr": (lambda x: x.to_sparse_csr().to_dense() ** 2, [X]),
    "product": (lambda x, w: torch.sparse.mm(x.to_sparse(), w), [X, W]),
    "operator": (lambda w: torch.tensor(X).to_sparse_csr() @ w, [W]),
    "values": (
        lambda v, w: torch.sparse.mm(torch.sparse_coo_tensor(AT, v, (2, 3)), w),
        [VALUES, W],
    ),
    "graph": (
        lambda w: torch.sparse.mm(ADJACENCY, torch.relu(torch.sparse.mm(ADJACENCY.T, w))),
        [X],
    ),
    "sum": (lambda x: torch.sparse.sum(x.to_sparse(), 0).to_dense(), [X]),
    "softmax": (lambda x: torch.sparse.softmax(x.to_sparse(), 1).to_dense(), [X]),
    "mkldnn": (lambda x: x.to_mkldnn().to_dense() ** 2, [X]),
    "nested": (
        lambda x: torch.nested.to_padded_tensor(
            torch.nested.as_nested_tensor([x[0], x[1, :2]], layout=torch.jagged), 0.0
        ),
        [X],
    ),
}
DENSE_GRADIENTS = {
    "embedding": (rows, [W]),
    "embedding_bag": (bags, [W]),
    "gather": (lambda x: torch.gather(x, 1, AT.T[:2], sparse_grad=True), [X]),
}


def native_gradients(function, arguments):
    tensors = [torch.tensor(x, requires_grad=True) for x in arguments]
    torch.sin(function(*tensors)).sum().backward()
    return [x.grad.to_dense().numpy() for x in tensors]


def gradients_equal_native(kits, bridged, case):
    _, target = kits
    function, arguments = case
    there = bridged(lambda *xs: torch.sin(function(*xs)).sum())
    expected = native_gradients(function, arguments)
    arrays = [target.array(x) for x in arguments]
    for i, gradient in enumerate(expected):
        found = target.grad(there, argnums=i)(*arrays)
        np.testing.assert_allclose(target.numpy(found), gradient, rtol=1e-5, atol=1e-6)


@OF_TORCH
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:.*(beta|prototype|nvariant)")
def test_a_function_of_sparse_tensors_runs_anew(kits, bridged, function):
    with pytest.warns(UserWarning, match=r"computes with sparse or nested tensors \(|cannot tell"):
        gradients_equal_native(kits, bridged, FUNCTIONS[function])


@OF_TORCH
@pytest.mark.parametrize("function", DENSE_GRADIENTS)
def test_sparse_gradients_are_dense(kits, bridged, function):
    gradients_equal_native(kits, bridged, DENSE_GRADIENTS[function])


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_an_embedding_with_sparse_gradients(capture):
    jax = pytest.importorskip("jax")
    module = torch.nn.Embedding(3, 2, sparse=True)
    there = torch2jax(module, capture=capture)
    found = jax.grad(lambda p: (there.apply(p, {}, ROWS.int().numpy())[0] ** 2).sum())(there.params)
    (module(ROWS) ** 2).sum().backward()
    np.testing.assert_allclose(found["weight"], module.weight.grad.to_dense(), rtol=1e-6)


def test_sparse_tensors_are_refused_where_a_graph_is_asked_for():
    jax = pytest.importorskip("jax")
    function = lambda x: x.to_sparse().to_dense()
    with pytest.raises(NoValuesError, match=r"since it computes with sparse .*\(to_sparse\)"):
        torch2jax(function, capture="require")(jax.numpy.asarray(X))
    with pytest.raises(NoValuesError, match='nothing that lower="xla" could compile'):
        torch2jax(function, lower="xla")(jax.numpy.asarray(X))


@pytest.mark.filterwarnings("ignore:.*sparse or nested")
def test_a_sparse_result_is_refused_by_name():
    jax = pytest.importorskip("jax")
    with pytest.raises(
        ArgumentError, match=r"result\['y'\] of <lambda> cannot cross: it is sparse"
    ):
        torch2jax(lambda x: {"y": x.to_sparse()})(jax.numpy.asarray(X))


def test_an_operator_without_a_fake_kernel_runs_anew():
    jax = pytest.importorskip("jax")

    @torch.library.custom_op("bridge_tests::sine", mutates_args=())
    def sine(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    sine.register_autograd(
        lambda ctx, cotangent: cotangent * ctx.saved_tensors[0].cos(),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    with pytest.warns(UserWarning, match=r"(?s)torch cannot tell the shapes .*register_fake"):
        found = jax.grad(lambda x: torch2jax(sine)(x).sum())(jax.numpy.asarray(X))
    np.testing.assert_allclose(found, np.cos(X), rtol=1e-6)


def test_nothing_is_logged(capfd):
    jax = pytest.importorskip("jax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch2jax(lambda x: torch.sparse.mm(x.to_sparse(), x.T))(jax.numpy.asarray(X))
    assert capfd.readouterr() == ("", "")
