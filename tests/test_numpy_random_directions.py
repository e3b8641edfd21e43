"""Random directions of complex arguments."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge import numpy2torch  # noqa: E402
from bridge.rules import SPSA  # noqa: E402

WEIGHTS = np.array([1.0, 2.0])


def function(z):
    return ((z.conj() * z).real * WEIGHTS).sum() + (z * np.array([1j, 2.0])).imag.sum()


def with_key(z, *, rng):
    return function(z) + 0 * rng.normal()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("fn", [function, with_key])
def test_both_parts_of_complex_arguments_are_moved(fn, dtype):
    values = torch.tensor([0.3 + 0.7j, -1.1 + 0.2j], dtype=dtype)
    f = numpy2torch(fn, gradient=SPSA(seed=0), dtype="float64")
    samples = []
    torch.manual_seed(0)
    for _ in range(400):
        z = values.clone().requires_grad_()
        f(z).backward()
        samples.append(torch.view_as_real(z.grad.to(torch.complex128)))
    draws = torch.stack(samples)
    weights = torch.tensor(WEIGHTS)
    expected = 2 * weights * values + torch.tensor([1.0, 2.0j])  # torch's convention
    errors = draws.mean(0) - torch.view_as_real(expected.to(torch.complex128))
    deviations = draws.std(0) / len(samples) ** 0.5
    assert deviations.min() > 0.01
    assert (errors.abs() < 5 * deviations).all()
