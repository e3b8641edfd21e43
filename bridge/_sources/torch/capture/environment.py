"""What of torch's state a function runs under, whatever its caller has set."""

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence

import torch

from bridge._arrays.torch import suspend_transforms
from bridge._sources.torch.internals import any_autocast, below_autograd, without_autocast
from bridge._sources.torch.state.replaced_tensors import restoring

Flat = Callable[..., Sequence[torch.Tensor]]


def in_clean_state(run: Flat, dtype: torch.dtype) -> Flat:
    """`run`, a graph, on tensors that carry no derivatives; what it records would be wasted."""
    disturbed, default = torch.is_inference_mode_enabled, torch.get_default_dtype

    def call(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        # Even a graph goes by the default dtype, where integers are divided.
        if any_autocast() or disturbed() or default() != dtype:
            with default_state(dtype), below_autograd():
                return run(*xs)
        with below_autograd():
            return run(*xs)

    return call


@contextlib.contextmanager
def default_state(dtype: torch.dtype) -> Generator[None]:
    """The state of a torch just started, but for the default dtype, and modules given back."""
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
    if torch.get_default_dtype() != dtype:  # all threads share it, so it is left alone if possible
        torch.set_default_dtype(dtype)


# The generator belongs to the process: two threads must not draw from it in turns.
_drawing = threading.RLock()


def with_seed(run: Flat, position: int) -> Flat:
    """`run` on random numbers that its input at `position` decides, all others undisturbed."""

    def call(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        seed = 0
        for word in xs[position].reshape(-1).tolist():  # a JAX key is two words of 32 bits
            seed = ((seed << 32 | seed >> 32) ^ word) & 0xFFFFFFFFFFFFFFFF
        with fork_generators(xs) as generators:
            for generator in generators:
                generator.manual_seed(seed)
            return run(*xs)

    return call


@contextlib.contextmanager
def fork_generators(xs: Sequence[torch.Tensor]) -> Generator[list[torch.Generator]]:
    """The generators for tensors on the devices of `xs`, which are as before afterwards."""
    generators = _generators({x.device for x in xs})
    with _drawing:
        before = [generator.get_state() for generator in generators]
        try:
            yield generators
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.set_state(state)


def generator_states(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Where the random numbers for tensors on the devices of `xs` go on."""
    return [generator.get_state() for generator in _generators({x.device for x in xs})]


def _generators(devices: set[torch.device]) -> list[torch.Generator]:
    found = [torch.default_generator]
    for device in devices:
        if device.type == "cuda":
            found.append(torch.cuda.default_generators[device.index or 0])
    return found
