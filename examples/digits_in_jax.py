"""A PyTorch module trained in JAX, with optax, on handwritten digits.

`torch2jax` takes the module apart into parameters, buffers and a pure `apply`. An epoch is one
compiled program: `jax.lax.scan` over batches, `jax.value_and_grad` of the loss, a step of optax.
The running statistics of batch normalization are returned by `apply`, the mask of dropout follows
from a key. At the end the weights are back in the module, where torch evaluates them, and the
gradient is compared with torch's own.

    python examples/digits_in_jax.py
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from tqdm import trange

from bridge import to_jax, to_torch, torch2jax

BATCH = 64


def network() -> nn.Module:
    """A small convolutional network, from images of 8x8 to 10 logits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * 4 * 4, 10),
    )


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and labels to train with, and to test with."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(labels, dtype=torch.int32)
    parts: Any = train_test_split(images, labels, test_size=0.25, random_state=0)
    return parts


def training(model: Any, rule: optax.GradientTransformation) -> Any:
    """One epoch as a compiled program."""

    def loss(params: Any, buffers: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        logits, buffers = model.apply(params, buffers, x, rng=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), buffers

    def step(carry: Any, batch: Any) -> Any:
        params, buffers, state = carry
        slope = jax.value_and_grad(loss, has_aux=True)
        (value, buffers), gradients = slope(params, buffers, *batch)
        updates, state = rule.update(gradients, state, params)
        return (optax.apply_updates(params, updates), buffers, state), value

    @jax.jit
    def epoch(carry: Any, x: jax.Array, y: jax.Array, key: jax.Array) -> Any:
        order, draws = jax.random.split(key)
        count = len(x) // BATCH
        shuffled = jax.random.permutation(order, len(x))[: count * BATCH].reshape(count, BATCH)
        keys = jax.random.split(draws, count)
        return jax.lax.scan(step, carry, (x[shuffled], y[shuffled], keys))

    return epoch


def largest_difference(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Between gradients by JAX and by torch, in evaluation, of the parameters of the module."""
    module.eval()
    model = torch2jax(module)

    def loss(params: Any) -> jax.Array:
        logits, _ = model.apply(params, model.buffers, to_jax(x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, to_jax(y)).mean()

    found = to_torch(jax.jit(jax.grad(loss))(model.params))
    module.zero_grad()
    nn.functional.cross_entropy(module(x), y.long()).backward()
    differences = [(found[n] - p.grad).abs().max() for n, p in module.named_parameters()]
    return float(torch.stack(differences).max())


def main() -> None:
    """Train, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    x, test_x, y, test_y = data()
    module = network()
    model = torch2jax(module)
    rule = optax.adam(3e-3)
    carry = (model.params, model.buffers, rule.init(model.params))
    epoch = functools.partial(training(model, rule), x=to_jax(x), y=to_jax(y))
    progress = trange(epochs)
    for k in progress:
        carry, losses = epoch(carry, key=jax.random.key(k))
        progress.set_postfix(loss=f"{jnp.mean(losses):.4f}")
    module.load_state_dict(to_torch({**carry[0], **carry[1]}, copy=True))
    with torch.no_grad():
        accuracy = (module.eval()(test_x).argmax(1) == test_y).float().mean()
    print(f"test accuracy {accuracy:.1%}")
    print(f"largest difference to torch's gradient {largest_difference(module, x, y):.1e}")


if __name__ == "__main__":
    main()
