"""What is kept between forward and backward, and who sees it."""

import gc
import weakref

import pytest

torch = pytest.importorskip("torch")

from tests.residuals import W, X, expected_gradients, layer, recorded  # noqa: E402
from tests.tensors import leaves  # noqa: E402


def test_saved_inputs_are_the_tensors_of_the_caller(into_torch):
    source, wrap = into_torch
    x, w = leaves(X, W)
    with recorded() as saved:
        wrap(lambda *xs: layer(source.xp, *xs))(x, w)
    addresses = [s.data_ptr() for s in saved]
    assert {x.data_ptr(), w.data_ptr()} <= set(addresses)
    assert len(addresses) == len(set(addresses))


def test_saved_output_is_the_result_itself(into_torch):
    """The derivative of exp is exp, which the caller holds already."""
    source, wrap = into_torch
    if source.name != "jax":
        pytest.skip("only JAX says which residuals are outputs")
    (x,) = leaves(X)
    with recorded() as saved:
        y = wrap(source.xp.exp)(x)
    assert {s.data_ptr() for s in saved} == {x.data_ptr(), y.data_ptr()}


def test_residuals_are_saved_tensors(into_torch):
    """The cosine of `sin`, say: neither input nor output."""
    source, wrap = into_torch
    x, w = leaves(X, W)
    with recorded() as saved:
        y = wrap(lambda *xs: layer(source.xp, *xs))(x, w)
    known = {t.data_ptr() for t in (x, w, y)}
    others = [s for s in saved if s.data_ptr() not in known]
    assert others
    assert all(not s.requires_grad for s in others)


def test_nothing_is_saved_where_no_gradient_is_wanted(into_torch):
    source, wrap = into_torch
    x, w = torch.tensor(X), torch.tensor(W)
    with recorded() as saved:
        wrap(lambda *xs: layer(source.xp, *xs))(x, w)
    assert not saved


def test_what_hooks_hand_back_is_what_backward_uses(into_torch):
    """Doubled residuals of x * x must double its gradient: nothing is kept elsewhere."""
    _, wrap = into_torch
    (x,) = leaves(X)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: 2 * t):
        y = wrap(lambda x: x * x)(x)
        (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, 4 * x.detach())


def test_save_on_cpu(into_torch):
    source, wrap = into_torch
    x, w = leaves(X, W)
    with torch.autograd.graph.save_on_cpu():
        y = wrap(lambda *xs: layer(source.xp, *xs))(x, w)
    found = torch.autograd.grad(y.square().sum(), (x, w))
    torch.testing.assert_close(found, expected_gradients(x, w))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(into_torch, use_reentrant):
    source, wrap = into_torch
    x, w = leaves(X, W)
    f = wrap(lambda *xs: layer(source.xp, *xs))
    checkpoint = torch.utils.checkpoint.checkpoint
    with recorded() as saved:
        y = checkpoint(f, x, w, use_reentrant=use_reentrant)
    # torch puts empty tensors in the place of what it will compute again.
    kept = {s.data_ptr() for s in saved if s.numel()}
    assert kept <= {x.data_ptr(), w.data_ptr()}
    y.square().sum().backward()
    torch.testing.assert_close((x.grad, w.grad), expected_gradients(x, w))


def test_retained_graph_gives_the_same_gradient_twice(into_torch):
    source, wrap = into_torch
    x, w = leaves(X, W)
    loss = wrap(lambda *xs: layer(source.xp, *xs))(x, w).square().sum()
    first = torch.autograd.grad(loss, (x, w), retain_graph=True)
    second = torch.autograd.grad(loss, (x, w))
    torch.testing.assert_close(first, expected_gradients(x, w))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_freed_graph_raises_what_torch_raises(into_torch):
    source, wrap = into_torch
    x, w = leaves(X, W)
    loss = wrap(lambda *xs: layer(source.xp, *xs))(x, w).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        loss.backward()


def test_residuals_are_freed_with_the_graph(into_torch):
    source, wrap = into_torch
    x, w = leaves(X, W)
    with recorded() as saved:
        y = wrap(lambda *xs: layer(source.xp, *xs))(x, w)
    known = {t.data_ptr() for t in (x, w, y)}
    alive = [weakref.ref(s) for s in saved if s.data_ptr() not in known]
    saved.clear()
    y.sum().backward()
    gc.collect()
    assert alive
    assert not [ref for ref in alive if ref() is not None]


def test_inputs_are_freed_with_the_graph(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    x = torch.tensor(X, requires_grad=True)
    f(x).backward()
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None


def test_a_graph_that_is_dropped_frees_its_inputs(into_torch):
    """Without a backward: nothing holds a cycle through the function."""
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    x = torch.tensor(X, requires_grad=True)
    f(x)
    alive = weakref.ref(x)
    del x
    gc.collect()
    assert alive() is None
