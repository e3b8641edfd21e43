"""The global state of torch that a function runs under, whatever its caller has set."""

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence

import torch

from bridge._arrays.torch import suspend_transforms
from bridge._arrays.torch.upstream.modes import any_autocast, below_autograd, without_autocast
from bridge._sources.torch.state.replaced_tensors import restoring

Fun = Callable[..., Sequence[torch.Tensor]]


def in_clean_state(run: Fun, dtype: torch.dtype) -> Fun:
    """Make `run`, a graph, record nothing for autograd and ignore the state of its caller."""
    inference, default = torch.is_inference_mode_enabled, torch.get_default_dtype

    def call(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        # Even a graph depends on the default dtype, where it divides integers.
        if any_autocast() or inference() or default() != dtype:
            with default_state(dtype), below_autograd():
                return run(*xs)
        with below_autograd():
            return run(*xs)

    return call


@contextlib.contextmanager
def default_state(dtype: torch.dtype) -> Generator[None]:
    """Set the state of a fresh torch, but with this default dtype, and restore modules at the end.

    The state of the caller is restored at the end too.
    """
    before = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.callback(_set_default_dtype, before)
        stack.enter_context(restoring())
        stack.enter_context(suspend_transforms())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(without_autocast())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        _set_default_dtype(dtype)
        yield


def _set_default_dtype(dtype: torch.dtype) -> None:
    if torch.get_default_dtype() != dtype:  # not set without need, since all threads share it
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def preserve_rng() -> Generator[torch.Tensor]:
    """Restore torch's generator at the end; yields its state now."""
    state = torch.get_rng_state()
    try:
        yield state
    finally:
        torch.set_rng_state(state)


# All threads share a generator, so only one at a time may seed it and draw.
_rng_lock = threading.RLock()


def with_seed(run: Fun, seed_argnum: int) -> Fun:
    """Seed the generators of torch by the input at `seed_argnum` while `run` runs."""

    def call(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        seed = 0
        for word in xs[seed_argnum].reshape(-1).tolist():  # a JAX key is two words of 32 bits
            seed = ((seed << 32 | seed >> 32) ^ word) & 0xFFFFFFFFFFFFFFFF
        with fork_generators(xs) as generators:
            for generator in generators:
                generator.manual_seed(seed)
            return run(*xs)

    return call


@contextlib.contextmanager
def fork_generators(xs: Sequence[torch.Tensor]) -> Generator[list[torch.Generator]]:
    """Yield the generators for the devices of `xs`, and restore their states at the end."""
    generators = _generators({x.device for x in xs})
    with _rng_lock:
        before = [generator.get_state() for generator in generators]
        try:
            yield generators
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


def generator_states(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the states of the generators for the devices of `xs`."""
    return [generator.get_state() for generator in _generators({x.device for x in xs})]


def _generators(devices: set[torch.device]) -> list[torch.Generator]:
    generators = [torch.default_generator]
    for device in devices:
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])
    return generators
