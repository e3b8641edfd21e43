"""An op of PyTorch in a model of MLX, and a module of MLX in one of PyTorch, on handwritten digits.

MLX has no `grid_sample`. With torch's, a network in MLX learns to find a digit that lies anywhere
on a larger canvas: a spatial transformer (Jaderberg et al. 2015, https://arxiv.org/abs/1506.02025),
trained by `nn.value_and_grad` and an optimizer of MLX. The other way round, a torch module reads
each digit as eight rows, by a module of MLX with the rotary positions and the attention of
`mx.fast`, whose parameters an optimizer of torch trains.

    python examples/digits_with_mlx.py
"""

import argparse
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import trange

from bridge import mlx2torch, torch2mlx

CANVAS, SIDE, BATCH = 14, 8, 64
HEADS, WIDTH = 4, 32


@torch2mlx
def crop(canvas: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """The window of each canvas that its affine map describes, `pose` of shape (batch, 2, 3)."""
    grid = torch.nn.functional.affine_grid(pose, [len(pose), 1, SIDE, SIDE], align_corners=False)
    return torch.nn.functional.grid_sample(canvas[:, None], grid, align_corners=False)[:, 0]


class Finder(nn.Module):
    """Logits of a digit on a canvas, by a window that is found first."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Linear(CANVAS * CANVAS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
        )
        self.aim = nn.Linear(64, 6)
        self.aim.weight = mx.zeros_like(self.aim.weight)
        scale = SIDE / CANVAS
        self.aim.bias = mx.array([scale, 0, 0, 0, scale, 0])
        self.read = nn.Sequential(nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 10))

    def __call__(self, canvas: mx.array) -> mx.array:
        pose = self.aim(self.look(canvas.reshape(len(canvas), -1))).reshape(-1, 2, 3)
        return self.read(crop(canvas, pose).reshape(len(canvas), -1))


class Attention(nn.Module):
    """Attention of rows to one another with rotary positions, of shape (batch, rows, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def __call__(self, rows: mx.array) -> mx.array:
        split = self.project(rows).reshape(*rows.shape[:2], 3, HEADS, WIDTH // HEADS)
        queries, keys, values = split.transpose(2, 0, 3, 1, 4)
        size = WIDTH // HEADS
        queries, keys = (
            mx.fast.rope(x, size, traditional=False, base=100.0, scale=1.0, offset=0)
            for x in (queries, keys)
        )
        mixed = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=size**-0.5)
        return mixed.swapaxes(1, 2).reshape(rows.shape)


class Reader(torch.nn.Module):
    """Logits of a digit, read row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(SIDE, WIDTH)
        self.attend = mlx2torch(Attention())
        self.classify = torch.nn.Sequential(
            torch.nn.Linear(SIDE * WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.embed(images)
        return self.classify((rows + self.attend(rows)).flatten(1))


def data() -> list[np.ndarray]:
    """Images and labels to train with, and to test with."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, SIDE, SIDE) / 16).astype("float32")
    parts: Any = train_test_split(images, labels, test_size=0.25, random_state=0)
    x, test_x, y, test_y = parts
    return [x, test_x, y.astype("int32"), test_y.astype("int32")]


def scattered(images: np.ndarray, random: np.random.Generator) -> mx.array:
    """Each image somewhere on a larger canvas."""
    canvases = np.zeros((len(images), CANVAS, CANVAS), "float32")
    places = random.integers(0, CANVAS - SIDE + 1, (len(images), 2))
    for canvas, image, (row, column) in zip(canvases, images, places, strict=True):
        canvas[row : row + SIDE, column : column + SIDE] = image
    return mx.array(canvases)


def in_mlx(epochs: int) -> float:
    """Test accuracy of a network of MLX with an op of torch in it."""
    mx.random.seed(0)
    random = np.random.default_rng(0)
    images, test_images, labels, test_labels = data()
    model, rule = Finder(), optimizers.Adam(3e-3, bias_correction=True)
    step = nn.value_and_grad(
        model, lambda x, y: nn.losses.cross_entropy(model(x), y, reduction="mean")
    )
    progress = trange(epochs, desc="torch in MLX")
    for _ in progress:
        x, y = scattered(images, random), mx.array(labels)
        for rows in np.array_split(random.permutation(len(x)), len(x) // BATCH):
            chosen = mx.array(rows)
            loss, gradients = step(x[chosen], y[chosen])
            rule.update(model, gradients)
            mx.eval(model.parameters(), rule.state)
        progress.set_postfix(loss=f"{loss.item():.4f}")
    predictions = model(scattered(test_images, random)).argmax(1)
    accuracy: Any = mx.mean(predictions == mx.array(test_labels)).item()
    return accuracy


def in_torch(epochs: int) -> float:
    """Test accuracy of a module of torch with one of MLX in it."""
    torch.manual_seed(0)
    x, test_x, y, test_y = map(torch.tensor, data())
    model = Reader()
    rule = torch.optim.Adam(model.parameters(), 3e-3)
    progress = trange(epochs, desc="MLX in torch")
    for _ in progress:
        for rows in torch.randperm(len(x)).split(BATCH):
            rule.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows].long())
            loss.backward()
            rule.step()
        progress.set_postfix(loss=f"{loss.item():.4f}")
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).float().mean().item()


def main() -> None:
    """Train both, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15)
    epochs = parser.parse_args().epochs
    print(f"torch in MLX: test accuracy {in_mlx(2 * epochs):.1%}")
    print(f"MLX in torch: test accuracy {in_torch(epochs):.1%}")


if __name__ == "__main__":
    main()
