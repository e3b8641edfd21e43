"""Operators of layers, samplers and histograms compiled by XLA, in every mode, against torch."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from bridge import torch2jax
from tests.suites.in_jax import Jax
from tests.suites.judging import RIGHT, judged
from tests.suites.samples import Sample, smooth
from tests.suites.truth import asked
from tests.torch_functions import complex_, real
from tests.torch_in_jax import listed

# Torch computes batches of some of them one after the other, and says so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:index_reduce"),
]

INDEX, OFFSETS = torch.tensor([1, 2, 4, 5, 4, 3, 4, 4]), torch.tensor([0, 2, 2, 5, 6])
MASK = torch.tensor([[True, False, True]] * 4)
PLACES = torch.tensor([3, 1])


def bags(mode):
    return lambda w: (
        F.embedding_bag(INDEX, w, OFFSETS, mode=mode),
        F.embedding_bag(INDEX, w, OFFSETS, mode=mode, padding_idx=4),
        F.embedding_bag(INDEX.view(4, 2), w, mode=mode),
    )


def grids(mode, padding, aligned):
    options = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    return lambda x, grid: F.grid_sample(x, 1.3 * grid, **options)


def by_index(reduce):
    return lambda x, y: (
        x.index_reduce(0, PLACES, y, reduce),
        x.index_reduce(0, torch.tensor([2, 2]), y, reduce, include_self=False),
    )


MISSING = torch.tensor([[1.0, torch.nan, 1, torch.nan], [1.0] * 4, [torch.nan] * 4]).double()
CASES = {
    "weight norm": (
        lambda v, g, h: (torch._weight_norm(v, g, 0), torch._weight_norm(v[0], h, 1)),
        [real(2, 4, 3), real(2, 1, 1), real(1, 3)],
    ),
    "sums of bags": (bags("sum"), [real(7, 3)]),
    "means of bags": (bags("mean"), [real(7, 3)]),
    "largest of bags": (bags("max"), [real(7, 3)]),
    "weighted bags": (
        lambda w, p: (
            F.embedding_bag(INDEX, w, OFFSETS, mode="sum", per_sample_weights=p, padding_idx=4),
            F.embedding_bag(
                INDEX, w, torch.tensor([0, 3, 8]), mode="sum", include_last_offset=True
            ),
        ),
        [real(7, 3), real(8)],
    ),
    "rows of a largest norm": (lambda w: F.embedding(INDEX, w * 1, max_norm=1.0), [real(7, 3)]),
    "masked rows": (lambda x, y: x.masked_scatter(MASK, y) ** 2, [real(4, 3), real(4, 3)]),
    "median but for NaN": (
        lambda x: (torch.nanmedian(x * MISSING) ** 2, torch.nanmedian(x * MISSING, 1)[0] ** 2),
        [real(3, 4)],
    ),
    "mean by index": (by_index("mean"), [real(4, 3), real(2, 3)]),
    "largest by index": (by_index("amax"), [real(4, 3), real(2, 3)]),
    "weighted covariance": (
        lambda x, a: (
            torch.cov(x),
            torch.corrcoef(x),
            x[0].real.corrcoef(),
            torch.cov(x, fweights=torch.tensor([1, 2, 3, 1])),
            torch.cov(x[0], aweights=a**2),
            x.cov(aweights=a**2, fweights=torch.tensor([1, 2, 3, 1]), correction=0),
        ),
        [complex_(3, 4), real(4)],
    ),
    "filled by a tensor": (
        lambda x, v: (
            x.index_fill(0, torch.tensor([0, 2, 2]), v) * x,
            x[0, 0].index_fill(0, PLACES[:1] * 0, v),
        ),
        [real(4, 3), real()],
    ),
    "histogram": (
        lambda x: (torch.histc(x, 5, -1, 1), torch.histc(x, 4), torch.histc(0 * x, 3)),
        [real(14)],
    ),
    "solved by factors": (
        lambda a, b: (
            torch.linalg.lu_solve(*torch.linalg.lu_factor(a), b),
            torch.linalg.lu_solve(*torch.linalg.lu_factor(a), b.mH, adjoint=True, left=False),
        ),
        [complex_(2, 3, 3), complex_(2, 3, 2)],
    ),
    "inverse of a Hermitian matrix": (
        lambda a: torch.linalg.pinv(a, hermitian=True)[..., 0],
        [complex_(3, 3)],
    ),
    "logarithm of a sum": (torch.logaddexp, [9 * complex_(3, 4), 9 * complex_(3, 4)]),
    "distances": (
        lambda x: [F.pdist(x, p) for p in (0.0, 1.0, 2.0, 3.5, torch.inf)],
        [real(4, 3)],
    ),
    "linear sampling": (
        grids("bilinear", "reflection", aligned=True),
        [real(1, 2, 3, 4), real(1, 3, 2, 2)],
    ),
    "nearest samples": (
        grids("nearest", "border", aligned=False),
        [real(1, 2, 3, 4), real(1, 3, 2, 2)],
    ),
    "cubic sampling": (
        grids("bicubic", "reflection", aligned=False),
        [real(1, 1, 4, 3), real(1, 2, 1, 2)],
    ),
    "sampling of volumes": (
        grids("bilinear", "zeros", aligned=False),
        [real(1, 2, 3, 2, 3), real(1, 2, 2, 1, 3)],
    ),
    "largest of even windows": (
        lambda x: (F.adaptive_max_pool2d(x, (2, 3)), F.adaptive_max_pool3d(x[None], (1, 3, 4))),
        [real(2, 4, 5)],
    ),
    "special functions": (
        lambda x: (torch.special.erfcx(4 * x + 4), *torch.frexp(x.detach())),
        [real(9)],
    ),
    "incomplete gamma": (
        lambda x: (torch.igamma(x.detach() ** 2, x**2), torch.igammac(x.detach() ** 2, x**2)),
        [real(9)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mode_equals_torch(name):
    function, tensors = CASES[name]
    free = tuple(i for i, x in enumerate(tensors) if smooth(x))
    sample = Sample(lambda *xs: listed(function(*xs)), tuple(tensors), free)
    verdicts = list(judged(asked(sample), Jax("xla")))
    assert {mode for mode, _, _ in verdicts} >= {"value", "batch"}
    assert not [verdict for verdict in verdicts if verdict[1] != RIGHT]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("flags", [{"unpack_data": False}, {"unpack_pivots": False}])
def test_a_part_of_what_a_factorization_has(flags):
    factors, pivots = torch.linalg.lu_factor(real(3, 3))
    there = torch2jax(lambda a, p: torch.lu_unpack(a, p, **flags), lower="xla")
    parts = there(jnp.asarray(factors.numpy()), jnp.asarray(pivots.numpy()))
    for part, expected in zip(parts, torch.lu_unpack(factors, pivots, **flags), strict=True):
        np.testing.assert_allclose(part, expected)


ENDS = torch.cat([OFFSETS, torch.tensor([8])])
WEIGHTS = real(8)
BAGS = {  # of a table, and whether the gradient of a row is divided by how often it occurs
    "sums": lambda w, divided: F.embedding_bag(
        INDEX, w, OFFSETS, mode="sum", scale_grad_by_freq=divided
    ),
    "means": lambda w, divided: F.embedding_bag(
        INDEX, w, ENDS, None, 2, divided, "mean", False, None, True
    ),
    "rows of a matrix": lambda w, divided: F.embedding_bag(
        INDEX.view(4, 2), w, scale_grad_by_freq=divided
    ),
    "padding": lambda w, divided: F.embedding_bag(
        INDEX, w, OFFSETS, scale_grad_by_freq=divided, padding_idx=-3
    ),
    "weighted": lambda w, divided: F.embedding_bag(
        INDEX, w, OFFSETS, mode="sum", scale_grad_by_freq=divided, per_sample_weights=WEIGHTS
    ),
    "the operator": lambda w, divided: torch.embedding_bag(w, INDEX, OFFSETS, divided)[0],
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", [{}, {"capture": "never"}, {"lower": "xla"}], ids=str)
@pytest.mark.parametrize("name", BAGS)
def test_gradients_of_bags_are_divided_by_how_often_a_row_occurs(name, how):
    if name == "the operator" and "lower" not in how:
        pytest.skip("torch 2.13 itself computes it, wrongly")
    bag, weight = BAGS[name], real(7, 3).requires_grad_()
    plain = bag(weight, False)
    cotangent = torch.randn_like(plain)
    (gradient,) = torch.autograd.grad(plain, weight, cotangent)
    seen = torch.bincount(INDEX, minlength=7).clamp(min=1)
    f = torch2jax(lambda w: bag(w, True), **how)
    values, pullback = jax.vjp(f, jnp.asarray(weight.detach().numpy()))
    np.testing.assert_allclose(values, plain.detach())
    (found,) = pullback(jnp.asarray(cotangent.numpy()))
    np.testing.assert_allclose(found, gradient / seen[:, None])
