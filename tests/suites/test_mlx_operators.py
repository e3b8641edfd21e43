"""Every operator of MLX, alone and through the bridge, held against differences and loops.

What MLX has wrong is a list that is measured. A test fails when MLX mends or breaks something, and
when the bridge lets through what is wrong, or refuses what is right.
"""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

from tests.suites.mlx_layers import SAMPLES
from tests.suites.mlx_measuring import ALONE, BRIDGED, LACKS, RIGHT, WRONG, measure

pytestmark = pytest.mark.suites
SECOND = {"jvp of vjp", "vjp of vjp"}
# By operator, of MLX 0.32.4.
MLX_HAS_WRONG = {
    "not_equal": {"vmap"},
    "logical_xor": {"vmap"},
    "bitwise_and": {"vmap"},
    "bitwise_or": {"vmap"},
    "bitwise_xor": {"vmap"},
    "left_shift": {"vmap"},
    "right_shift": {"vmap"},
    "abs of complex numbers": SECOND,
    "sign of complex numbers": {"vjp", "jvp"},
    "prod of complex numbers": {"vjp of vjp"},
    "cumprod of complex numbers": {"vjp"},
    "logcumsumexp of complex numbers": {"vjp"},
    "power of complex numbers": {"vjp"},
    "linalg.norm of complex numbers": SECOND,
    "divmod, the remainder": {"vjp", "jvp"},
    "full": {"vjp"},
    "full_like": {"vjp"},
    "addmm with factors": {"jvp"},
    "block_masked_mm, mask of the result": {"vjp"},
    "block_masked_mm, all": {"vjp of vjp"},
    "conv1d with groups": {"vmap", "vmap of vjp"},
    "conv2d with groups": {"vmap", "vmap of vjp"},
    "slice_update": {"vmap"},
    "write to a slice": {"vmap"},
    "at add to a slice": {"vmap"},
    "fft.irfft, odd": {"jvp"},
    "fft.irfft2, odd": {"jvp"},
}


def test_all_that_is_listed_is_measured():
    assert SAMPLES.keys() >= MLX_HAS_WRONG.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_what_mlx_has_wrong_is_what_is_listed(name):
    found = measure(SAMPLES[name].fn, SAMPLES[name].xs, ALONE)
    wrong = {kind for kind, outcome in found.outcomes.items() if outcome == WRONG}
    assert wrong == MLX_HAS_WRONG.get(name, set())


@pytest.mark.parametrize("name", SAMPLES)
def test_through_the_bridge_nothing_is_wrong(name):
    alone = measure(SAMPLES[name].fn, SAMPLES[name].xs, ALONE)
    found = measure(SAMPLES[name].fn, SAMPLES[name].xs, BRIDGED)
    assert WRONG not in found.outcomes.values(), found.outcomes
    right = {kind for kind, outcome in alone.outcomes.items() if outcome == RIGHT}
    refused = {kind: found.texts[kind] for kind in right if found.outcomes.get(kind) == LACKS}
    assert not refused
