"""Functions of MLX whose results or random numbers change from call to call: refused."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import mlx.nn as nn
import torch

import bridge
from bridge import mlx2torch
from tests.mlx_functions import X


def test_results_that_change_from_call_to_call_are_found_out():
    kind = "as before"

    def f(x):
        y = mx.sin(x)
        return {"as before": y, "structure": (y, x * 2), "class": "no array"}[kind]

    bridged = mlx2torch(f)
    torch.testing.assert_close(bridged(X), X.sin())
    torch.testing.assert_close(bridged(X), X.sin())
    kind = "class"
    with pytest.raises(bridge.ArgumentError, match=r"result of f is a str, no array of mlx"):
        bridged(X)
    kind = "as before"
    torch.testing.assert_close(bridged(X), X.sin())
    kind = "structure"
    with pytest.raises(bridge.ArgumentError, match=r"f returned \(float32\[3\], float32\[3\]\)"):
        bridged(X)


def test_draws_that_were_not_there_are_refused():
    drop = nn.Dropout(0.5)
    f, x = mlx2torch(lambda x: drop(x)), torch.ones(40, requires_grad=True)
    drop.eval()
    f(x)
    drop.train()
    with pytest.raises(bridge.ArgumentError, match=r"draws random numbers now.*rng="):
        f(x)
    y = f(x, rng=torch.tensor(3))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


CHANGES = {
    "shape": (lambda y: y[:2], r"returned \(float32\[.*2\]\) for these values, but"),
    "dtype": (lambda y: y.astype(mx.float16), r"returned \(float16\[.*4\]\) for"),
    "count": (lambda y: [y, y], r"returned \(float32\[.*4\], float32\[.*4\]\) for"),
    "nothing": (lambda _: [], r"returned \(\) for these values, but \(float32\[.*4\]\) for"),
    "draws": (lambda y: y * mx.random.uniform(shape=y.shape), "draws random numbers now"),
}
MOMENTS = {
    "forward": lambda f, x: lambda: f(x.detach()),
    "forward for a gradient": lambda f, x: lambda: f(x),
    "backward": lambda f, x: f(x).sum().backward,
    "jvp": lambda f, x: lambda: torch.func.jvp(f, (x.detach(),), (x.detach(),)),
    "vmap": lambda f, x: lambda: torch.func.vmap(f)(x.detach().repeat(2, 1)),
}


@pytest.mark.parametrize("residuals", ["recompute", "save"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_results_that_are_not_like_those_before_are_refused(change, moment, residuals):
    changed, text = CHANGES[change]
    now = [lambda y: y]
    f = mlx2torch(lambda x: now[0](mx.sin(x)), residuals=residuals)
    x = torch.tensor([0.3, -1.2, 2.0, 0.7], requires_grad=True)
    MOMENTS[moment](f, x)()
    ready = MOMENTS[moment](f, x)
    now[0] = changed
    if moment == "backward":  # as it was in the forward pass
        ready()
        torch.testing.assert_close(x.grad, 2 * x.detach().cos())
        return
    with pytest.raises(bridge.ArgumentError, match=text):
        ready()
