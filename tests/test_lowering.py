"""Functions of torch compiled by XLA operator by operator, against torch itself."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch

from bridge import torch2jax
from tests.handmade import smooth
from tests.torch_functions import FUNCTIONS
from tests.torch_operators import FAMILIES

pytestmark = pytest.mark.usefixtures("x64")


def in_jax(x):
    return jnp.asarray(x.detach().resolve_conj().numpy())


def row(results):
    """All tensors among results, as one list; numbers as tensors."""
    if isinstance(results, (list, tuple)):
        return [y for inner in results for y in row(inner)]
    return [results if isinstance(results, torch.Tensor) else torch.tensor(results)]


def check(function, xs, rtol=1e-9):
    """Value and gradient equal torch's, in one compiled program."""
    free = [i for i, x in enumerate(xs) if smooth(x)]
    leaves = [x.detach().clone().requires_grad_(smooth(x)) for x in xs]
    values = row(function(*[x.clone() for x in leaves]))
    flowing = [i for i, y in enumerate(values) if y.requires_grad]
    generator = torch.Generator().manual_seed(5)
    cotangents = [
        torch.randn(values[i].shape, dtype=values[i].dtype, generator=generator) for i in flowing
    ]
    there = torch2jax(lambda *xs: row(function(*xs)), lower="xla")

    @jax.jit
    def both(arrays, cotangents):
        def of_free(*moving):
            found = there(
                *[moving[free.index(i)] if i in free else arrays[i] for i in range(len(xs))]
            )
            return [found[i] for i in flowing], found

        _, pull, found = jax.vjp(of_free, *[arrays[i] for i in free], has_aux=True)
        return found, pull(cotangents) if flowing else []

    found, gradients = both([in_jax(x) for x in xs], [jnp.conj(in_jax(c)) for c in cotangents])
    for i, (mine, theirs) in enumerate(zip(found, values, strict=True)):
        assert str(mine.dtype) == str(theirs.dtype).removeprefix("torch."), i
        expected = theirs.detach().resolve_conj().resolve_neg().numpy()
        room = max(rtol, 4 * torch.finfo(theirs.dtype).eps) if smooth(theirs) else 0
        np.testing.assert_allclose(mine, expected, room, 1e-12, err_msg=f"result {i}")
    if not flowing:
        return
    given = [values[i] for i in flowing], [leaves[i] for i in free], cotangents
    theirs = torch.autograd.grad(*given, allow_unused=True, materialize_grads=True)
    for i, mine, expected in zip(free, gradients, theirs, strict=True):
        np.testing.assert_allclose(
            np.conj(mine), expected.resolve_conj(), 100 * rtol, 1e-10, err_msg=f"gradient {i}"
        )


def _all_of(functions):
    return lambda *xs: [function(*xs) for function in functions.values()]


@pytest.mark.parametrize("family", FAMILIES)
def test_operators_equal_torch(family):
    functions, xs = FAMILIES[family]
    check(_all_of(functions), xs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_equal_torch(name):
    check(*FUNCTIONS[name])
