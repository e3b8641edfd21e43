"""Results that require gradients in torch, and arguments that get one or none."""

import numpy as np
import pytest

from tests.trees import COTANGENT_A, COTANGENT_B, A, B, Pair, leaf


@pytest.mark.parametrize("empty", [None, {}, ()], ids=repr)
def test_no_outputs_of_an_argument_that_requires_grad(into_torch, torch, empty):
    assert into_torch[1](lambda x: empty)(leaf(torch, A)) == empty


def test_structure_outside_of_transformations(into_torch, torch):
    """`backward` of a plain call goes another way than `torch.func`."""
    source, wrap = into_torch
    function = lambda xp, p: {"y": [xp.sin(p["a"]) * p["b"][1]], "x": Pair(p["a"], xp.exp(p["b"]))}
    there = wrap(lambda p: function(source.xp, p))

    gradients = []
    for call in (there, lambda p: function(torch, p)):
        a, b = leaf(torch, A), leaf(torch, B)
        out = call({"b": b, "a": a})
        weights = torch.tensor(COTANGENT_B)
        loss = (out["y"][0] * torch.tensor(COTANGENT_A)).sum() + (out["x"].b * weights).sum()
        gradients.append(torch.autograd.grad(loss, (a, b)))
    torch.testing.assert_close(*gradients)


def test_unused_input_gets_none(into_torch, torch):
    """As in torch: `None`, no zeros, and an error unless `allow_unused`."""
    source, wrap = into_torch
    x, unused = leaf(torch, A), leaf(torch, B)
    y = wrap(lambda x, unused: source.xp.sin(x))(x, unused)
    found, nothing = torch.autograd.grad(y.sum(), (x, unused), allow_unused=True)
    torch.testing.assert_close(found, torch.cos(x.detach()))
    assert nothing is None


def test_input_without_gradient_gets_none(into_torch, torch):
    x, fixed = leaf(torch, A), torch.tensor(A)
    into_torch[1](lambda x, fixed: x * fixed)(x, fixed).sum().backward()
    torch.testing.assert_close(x.grad, fixed)
    assert fixed.grad is None


def test_integer_outputs_do_not_require_grad(into_torch, torch):
    source, wrap = into_torch
    outputs = wrap(lambda x: (x * 2, source.xp.argmax(x), x > 0, x + 1j))(leaf(torch, A))
    assert [y.requires_grad for y in outputs] == [True, False, False, True]


def test_outputs_that_depend_on_no_wanted_input_do_not_require_grad(into_torch, torch):
    source, wrap = into_torch
    there = wrap(lambda x, fixed: (x * 2, source.array(B), fixed * 2, fixed * x))
    outputs = there(leaf(torch, A), torch.tensor(A))
    assert [y.requires_grad for y in outputs] == [True, False, False, True]


def test_integer_input_beside_one_that_requires_grad(into_torch, torch):
    source, wrap = into_torch
    x, index = leaf(torch, A), torch.tensor([2, 0, 0])
    y = wrap(lambda x, index: source.xp.sin(x[index]))(x, index)
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT_A))
    (wanted,) = torch.autograd.grad(torch.sin(x[index]), x, torch.tensor(COTANGENT_A))
    torch.testing.assert_close(found, wanted)


def test_same_tensor_twice_outside_of_transformations(into_torch, torch):
    x = leaf(torch, A)
    into_torch[1](lambda x, y: x * x * y)(x, x).sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)


def test_input_that_is_an_output_has_its_gradient(into_torch, torch):
    x = leaf(torch, A)
    same, _ = into_torch[1](lambda x: (x, x * 2))(x)
    (found,) = torch.autograd.grad(same, x, torch.tensor(COTANGENT_A))
    np.testing.assert_array_equal(found.numpy(), COTANGENT_A)
