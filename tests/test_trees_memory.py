"""Results that are, or could be, the memory of something else."""

import numpy as np
import pytest

from tests.trees import A, B

SHARED = {
    "input": lambda xp, x, y, c: (x,),
    "inputs swapped": lambda xp, x, y, c: (y, x),
    "input twice": lambda xp, x, y, c: (x, x),
    "reshaped input": lambda xp, x, y, c: (x.reshape(1, -1), x[None], xp.real(x)),
    "duplicate": lambda xp, x, y, c: [xp.sin(x)] * 3,
    "constant": lambda xp, x, y, c: (c, c, x + c),
    "input and residual": lambda xp, x, y, c: (x, xp.exp(x), xp.exp(x) * y, y),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", [{}, {"jit": False}, {"residuals": "recompute"}], ids=str)
@pytest.mark.parametrize("function", SHARED.values(), ids=SHARED)
def test_results_have_memory_of_their_own(into_torch, torch, function, options, requires_grad):
    source, wrap = into_torch
    # Large and 64-byte aligned: what is lent without a copy.
    x, y = (torch.linspace(-1, end, 4096, requires_grad=requires_grad) for end in (2.0, 3.0))
    constant = source.array(np.linspace(0, 1, 4096, dtype=np.float32))
    there = wrap(lambda x, y: function(source.xp, x, y, constant), **options)
    first, second = there(x, y), there(x, y)
    addresses = [z.data_ptr() for z in (x, y, *first, *second)]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_argument_of_another_framework_is_not_changed_through_a_result(
    into_torch, torch, jit, requires_grad
):
    """An array of the source is handed on as it is, so an output could be that very array."""
    source, wrap = into_torch
    x = torch.tensor(A, requires_grad=requires_grad)
    for given in (source.array(B), B.copy()):
        result, _ = wrap(lambda given, x: (given, x * 2), jit=jit)(given, x)
        result.detach().fill_(9.0)
        np.testing.assert_array_equal(np.asarray(given), B)


@pytest.mark.parametrize("jit", [True, False])
def test_constant_is_not_changed_through_a_result(into_torch, torch, jit):
    source, wrap = into_torch
    constant = source.array(B)
    there = wrap(lambda x: (constant, x), jit=jit)
    x = torch.tensor(A)
    for result in there(x):
        result.fill_(9.0)
    torch.testing.assert_close(there(x), (torch.tensor(B), torch.tensor(A)))
    np.testing.assert_array_equal(source.numpy(constant), B)
