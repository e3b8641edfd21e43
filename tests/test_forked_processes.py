"""Calls in forked processes and workers of a DataLoader: right, or an error that says why not."""

import os
import signal
import warnings

import pytest

from tests.processes import fresh_process

torch = pytest.importorskip("torch")

from tests.losses import loss, point, slope  # noqa: E402

# Processes. JAX cannot be used in a child that was forked after JAX was: it has threads, which a
# fork does not copy. Everything here runs in processes of their own, and nothing waits forever.

SECONDS = 30


def wrapped():
    import jax.numpy as jnp

    from bridge import jax2torch

    return jax2torch(lambda x: (jnp.sin(x) * x).sum())


def gradient_is_right(f, n=4):
    x = point(0, n)
    y = f(x)
    y.backward()
    return torch.allclose(y, loss(torch, x)) and torch.allclose(x.grad, slope(x))


def in_child(call):
    """What `call` returns in a forked child, its error there, or how the child ended."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of forks
        child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.write(writing, _outcome(call).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text if status == 0 else f"hangs (status {status})"


def _outcome(call):
    from bridge import BridgeError

    try:
        return str(call())
    except BridgeError as error:
        return f"BridgeError: {error}"
    except BaseException as error:  # noqa: BLE001, it is reported to the parent
        return f"{type(error).__name__}: {error}"


def forked_children():
    """What children make of a call, by what their parent had done before."""
    import jax.numpy as jnp

    f = wrapped()
    found = {"nothing": in_child(lambda: gradient_is_right(f))}
    found["imports"] = in_child(lambda: gradient_is_right(wrapped()))
    jnp.sin(jnp.ones(3)).block_until_ready()
    found["JAX alone"] = in_child(lambda: gradient_is_right(f))
    x = point(0, 4)
    y = f(x)
    found["the same call"] = in_child(lambda: gradient_is_right(f))
    found["another shape"] = in_child(lambda: gradient_is_right(f, 5))
    found["another function"] = in_child(lambda: gradient_is_right(wrapped()))
    found["the forward"] = in_child(lambda: torch.autograd.grad(y, x))
    found["the call, in the parent"] = str(gradient_is_right(f))
    y.backward()
    found["the forward, in the parent"] = str(torch.allclose(x.grad, slope(x)))
    return found


@pytest.fixture(scope="module")
def children():
    pytest.importorskip("jax")
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    return fresh_process(forked_children, timeout=10 * SECONDS)


@pytest.mark.parametrize("before", ["nothing", "imports"])
def test_forked_child_of_a_parent_that_has_not_used_jax(children, before):
    assert children[before] == "True"


@pytest.mark.parametrize(
    "before", ["JAX alone", "the same call", "another shape", "another function", "the forward"]
)
def test_forked_child_of_a_parent_that_has_used_jax(children, before):
    """An error that says what to write instead; a small call may happen to work, others hang."""
    assert children[before].startswith("BridgeError")
    assert "fork" in children[before]
    assert "spawn" in children[before]


@pytest.mark.parametrize("call", ["the call", "the forward"])
def test_parent_of_forked_children_goes_on(children, call):
    assert children[f"{call}, in the parent"] == "True"


class Gradients(torch.utils.data.Dataset):
    """Gradients that a worker computes; the function comes with the first of them."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = point(i, 4)
        (g,) = torch.autograd.grad(self.function()(x), x)
        return torch.stack([g, slope(x)])

    def function(self):
        if not hasattr(self, "_function"):
            self._function = wrapped()
        return self._function


def loaded_by_workers(method, before):
    """What a DataLoader with workers of this start method says of gradients computed there."""
    from torch.utils.data import DataLoader

    if before:
        assert gradient_is_right(wrapped())
    loader = DataLoader(
        Gradients(),
        num_workers=2 if method == "fork" else 1,  # which import torch and JAX anew
        multiprocessing_context=method,
        timeout=SECONDS + 15,
    )

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # JAX warns of forks
            batches = list(loader)
        return len(batches) == 4 and all(torch.allclose(*batch[0]) for batch in batches)

    return _outcome(load)


WORKERS = {
    "fork, JAX not used before": ("fork", False),
    "spawn": ("spawn", True),
    "forkserver": pytest.param("forkserver", True, marks=pytest.mark.slow),
}


@pytest.mark.parametrize(("method", "before"), WORKERS.values(), ids=WORKERS)
def test_workers_of_a_dataloader(method, before):
    pytest.importorskip("jax")
    assert fresh_process(loaded_by_workers, method, before) == "True"


def test_forked_workers_of_a_dataloader_after_jax_was_used():
    pytest.importorskip("jax")
    found = fresh_process(loaded_by_workers, "fork", True)
    assert found.startswith("BridgeError")
    assert "spawn" in found
