"""Modes and transformations of torch around bridged functions in compiled code."""

import functools

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import COMPILED, assert_close, compiled, rows, with_gradients  # noqa: E402
from tests.versions import NEWER_DYNAMO  # noqa: E402

pytestmark = COMPILED

MODES = {
    "no_grad": torch.no_grad,
    "inference": pytest.param(torch.inference_mode, marks=NEWER_DYNAMO),
    "autocast": lambda: torch.autocast(device_type="cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("where", ["around the call", "in the compiled code"])
def test_modes_equal_eager(into_torch, mode, where):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)

    def step(f, x):
        with mode():
            return f(x @ x.T), f(x), x.sum()

    def around(fn, x):
        with mode():
            return fn(x)

    ours, native = [functools.partial(step, g) for g in (f, lambda x: x.sin() * x)]
    x = rows().requires_grad_()
    run = around if where == "around the call" else lambda fn, x: fn(x)
    found, eager, true = run(compiled(ours), x), run(ours, x), run(native, x)
    torch.testing.assert_close(found, eager)
    torch.testing.assert_close(found, true)
    assert [y.dtype for y in found] == [y.dtype for y in true]
    assert [y.requires_grad for y in found] == [y.requires_grad for y in true]


def test_gradients_under_autocast(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)

    def loss(f, x):
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            return f(x @ x.T)

    found = with_gradients(compiled(lambda x: loss(f, x)), rows())
    native = with_gradients(lambda x: loss(lambda x: x.sin() * x, x), rows())
    torch.testing.assert_close(found, native)


def test_second_order_is_refused_by_torch(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x))
    x = rows().requires_grad_()
    (g,) = torch.autograd.grad(compiled(lambda x: f(x))(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        g.sum().backward()


TRANSFORMED = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x.cos())[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "second": lambda f, x: torch.func.grad(
        lambda x: torch.func.grad(lambda x: f(x).sum())(x).sum()
    )(x),
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_transforms_in_compiled_code_are_right_or_refused(into_torch, transform):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x.sum())
    x = rows()
    try:
        found = compiled(lambda x: transform(f, x))(x)
    except (RuntimeError, NotImplementedError) as error:
        assert "bridged function" in str(error)  # noqa: PT017, either of both is right
    else:
        assert_close(found, transform(lambda x: x.sin() * x.sum(), x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("axis", "out"), [(0, 0), (1, 0), (0, 1)])
def test_batches_in_compiled_code(into_torch, axis, out, dynamic):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * (x * y).sum())
    native = lambda x, y: x.sin() * (x * y).sum()
    over = lambda f: torch.func.vmap(f, (axis, None), out)
    x, y = rows() if axis == 0 else rows().mT, torch.tensor([0.4, -1.1, 0.7])
    program = compiled(lambda x, y: over(f)(x, y) * 2, dynamic=dynamic)
    found = with_gradients(program, x, y)
    torch.testing.assert_close(found, with_gradients(lambda x, y: over(native)(x, y) * 2, x, y))
