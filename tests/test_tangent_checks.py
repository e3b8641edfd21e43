"""Tangents that are held against gradients, and are right."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from bridge import NoRuleError  # noqa: E402
from tests.torch_functions import Clipped  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

X = torch.rand(4, generator=torch.Generator().manual_seed(1))
I = torch.tensor([3, 0, 2, 1])  # noqa: E741
V = torch.tensor([1.0, -0.5, 2.0, 0.3])

VANISHING = {
    "sine and cosine": lambda x: x.sin() ** 2 + x.cos() ** 2,
    "logarithms": lambda x: x.logsumexp(0) - x.exp().sum().log(),
    "softmax": lambda x: x.softmax(0).sum(),
    "layer norm": lambda x: F.layer_norm(x, (4,)).sum(),
    "batch norm": lambda x: F.batch_norm(x[:, None], None, None, training=True).sum(),
}


@pytest.mark.parametrize("capture", ["require", "never"])
@pytest.mark.parametrize("name", VANISHING)
def test_tangents_that_are_0_but_for_rounding(name, capture):
    f = op(VANISHING[name], X, capture=capture)
    found = f.derive("jvp", (0,)).call(X, V)
    close(found, [torch.zeros(f.output_specs()[0].shape)], rtol=0, atol=1e-5)


WRITTEN = {
    "scatter": lambda x, i: torch.zeros(4).scatter(0, i, x.sin()),
    "put": lambda x, i: torch.zeros(4).put(i, x.sin()),
    "index_copy": lambda x, i: torch.zeros(4).index_copy(0, i, x.sin()),
    "index_put": lambda x, i: torch.zeros(4).index_put((i,), x.sin()),
}


@pytest.mark.parametrize("capture", ["require", "never"])
@pytest.mark.parametrize("name", WRITTEN)
def test_elements_that_are_written_once(name, capture):
    """At integers that are all 0 each is written over the one before, in any order."""
    found = op(WRITTEN[name], X, I, capture=capture).derive("jvp", (0,)).call(X, I, V)
    close(found, [torch.zeros(4).index_put((I,), X.cos() * V)])


def test_small_tangents_that_are_wrong_are_refused_all_the_same():
    with pytest.raises(NoRuleError, match="not linear in the cotangent"):
        op(lambda x: 1e-6 * Clipped.apply(x * 1e-3), X).derive("jvp", (0,))
