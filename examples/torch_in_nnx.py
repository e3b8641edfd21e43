"""A residual network of torch, trained in JAX as a module of Flax nnx, on handwritten digits.

`torch2jax(model, lower="xla").to_nnx()` is an `nnx.Module`: `nnx.Optimizer` trains its parameters,
`nnx.jit` compiles the step, the running statistics change in training, and orbax saves its state.
At the end the weights go back into torch, which finds the same digits.

    python examples/torch_in_nnx.py
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as orbax
import torch
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from bridge import to_torch, torch2jax

BATCH = 64


class Block(nn.Module):
    """Two convolutions, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width), nn.BatchNorm2d(width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(x + self.norms[1](self.second(y)))


def resnet() -> nn.Module:
    """From images of 8x8 to 10 logits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        Block(16),
        nn.MaxPool2d(2),
        Block(16),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16 * 4 * 4, 10),
    )


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels to train with, and to test with."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32").reshape(-1, 1, 8, 8) / 16
    parts: Any = train_test_split(images, labels, test_size=0.25, random_state=0)
    return parts


@nnx.jit
def step(model: Any, optimizer: Any, images: Any, labels: Any) -> Any:
    """Train for one batch; return the loss."""

    def loss(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def accuracy(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of digits that it recognizes in evaluation."""
    model.eval()
    logits = nnx.jit(lambda model, images: model(images))(model, images)
    model.train()
    return float((np.argmax(logits, 1) == labels).mean())


def save_and_restore(model: Any) -> None:
    """Write the state of the model to disk, and read it back into the model."""
    _, state = nnx.split(model)
    with tempfile.TemporaryDirectory() as folder, orbax.StandardCheckpointer() as checkpointer:
        path = Path(folder) / "model"
        checkpointer.save(path, nnx.to_pure_dict(state))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(path, nnx.to_pure_dict(state))
    nnx.replace_by_pure_dict(state, restored)
    nnx.update(model, state)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs

    x, x_test, y, y_test = data()
    model = torch2jax(resnet(), lower="xla").to_nnx(rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        batches = order[: len(x) // BATCH * BATCH].reshape(-1, BATCH)
        losses = [float(step(model, optimizer, x[i], y[i])) for i in batches]
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")
    save_and_restore(model)
    print(f"test accuracy {100 * accuracy(model, x_test, y_test):.1f}% in JAX")

    module = to_torch(model).eval()
    with torch.no_grad():
        recognized = module(torch.from_numpy(x_test)).argmax(1).numpy()
    print(f"test accuracy {100 * (recognized == y_test).mean():.1f}% back in torch")


if __name__ == "__main__":
    main()
