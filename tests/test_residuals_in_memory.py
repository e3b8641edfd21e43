"""How much memory residuals take, and that it is free when torch lets them go."""

import contextlib
import pathlib
import time
import uuid

import pytest

from tests.processes import fresh_process, needs_proc, peak, resident

torch = pytest.importorskip("torch")


LAYERS, MEGABYTES = 6, 4  # a layer's input is one array, its residuals are two more
SLACK = MEGABYTES / 2
LEFT = MEGABYTES - SLACK / 4  # residuals of one layer would be 4 MB


def sine_of_sine(xp, x):
    """A layer whose derivative needs two arrays that are neither its input nor its result."""
    return xp.sin(xp.sin(x))


def chain(layer, x):
    for _ in range(LAYERS):
        x = layer(x)
    return x


def measure(layer, x, context, expected):
    """What a chain of layers keeps between forward and backward, and what is left of it."""
    before = resident()
    with context:
        y = chain(layer, x)
    kept = resident() - before
    y.sum().backward()
    right = torch.allclose(x.grad, expected, rtol=1e-4, atol=1e-6)
    del y
    x.grad = None
    return {"kept": kept, "right": right, "left": settled(before) - before, "peak": peak()}


def settled(before):
    """What is resident once threads of XLA have freed what they computed with, in 20 s at most."""
    end = time.monotonic() + 20
    while resident() > before + LEFT and time.monotonic() < end:
        time.sleep(0.05)
    return resident()


def residuals_in_memory(folder):
    """What is measured of a chain of layers under each way to get its residuals out of memory."""
    import jax.numpy as jnp
    from torch.utils.checkpoint import checkpoint

    from bridge import jax2torch

    f = jax2torch(lambda x: sine_of_sine(jnp, x), residuals="save")
    recomputing = jax2torch(lambda x: sine_of_sine(jnp, x), residuals="recompute")
    x = torch.linspace(-1, 1, MEGABYTES * 2**18).requires_grad_()
    native = chain(lambda x: sine_of_sine(torch, x), x).sum()
    (expected,) = torch.autograd.grad(native, x)
    del native

    def to_disk(t):
        path = pathlib.Path(folder, uuid.uuid4().hex)
        torch.save(t, path)
        return path

    disk = torch.autograd.graph.saved_tensors_hooks(to_disk, torch.load)
    again = lambda how: lambda x: checkpoint(f, x, use_reentrant=how)
    for layer in (f, recomputing, again(True), again(False)):  # compiles
        layer(x).sum().backward()
    torch.load(to_disk(x.detach()))  # imports and allocates for good
    x.grad = None
    plain = contextlib.nullcontext()
    # A peak is only ever raised, so that the most frugal way comes first.
    return {
        "disk": measure(f, x, disk, expected),
        "reentrant": measure(again(True), x, plain, expected),
        "not reentrant": measure(again(False), x, plain, expected),
        "recompute": measure(recomputing, x, plain, expected),
        "save": measure(f, x, plain, expected),
    }


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What is measured in a process of its own, by the way residuals are kept."""
    pytest.importorskip("jax")
    return fresh_process(residuals_in_memory, str(tmp_path_factory.mktemp("residuals")))


WAYS = ["disk", "reentrant", "not reentrant", "recompute", "save"]


@needs_proc
def test_residuals_are_in_memory_where_nothing_takes_them_out(kept):
    """So that the other measurements measure something."""
    assert kept["save"]["kept"] == pytest.approx(3 * LAYERS * MEGABYTES, abs=SLACK)


@needs_proc
def test_hooks_that_pack_to_disk_take_everything_out_of_memory(kept):
    assert kept["disk"]["kept"] <= MEGABYTES + SLACK  # the result


@needs_proc
@pytest.mark.parametrize("way", ["reentrant", "not reentrant", "recompute"])
def test_checkpoint_and_recompute_keep_the_inputs_of_layers_only(kept, way):
    assert kept[way]["kept"] <= LAYERS * MEGABYTES + SLACK


@needs_proc
@pytest.mark.parametrize("way", ["disk", "reentrant", "not reentrant"])
def test_peak_is_lower_by_the_residuals_of_the_other_layers(kept, way):
    saved = kept["save"]["peak"] - kept[way]["peak"]
    assert saved >= 2 * (LAYERS - 1) * MEGABYTES - 3 * SLACK


@needs_proc
@pytest.mark.parametrize("way", WAYS)
def test_gradient_is_right_and_nothing_is_left_after_the_backward(kept, way):
    assert kept[way]["right"]
    assert kept[way]["left"] <= LEFT
