"""A convolutional network of Flax, trained by torch, on handwritten digits.

`jax2torch(module.bind(variables))` is a `torch.nn.Module`: an ordinary loop of torch trains it,
with a `DataLoader`, AdamW, a cosine schedule, an average of the weights, and a checkpoint from
which the second half of the training goes on. The same network is trained by Flax and optax for
comparison, from the same weights, and both curves are drawn.

    python examples/flax_in_torch.py --output flax_in_torch.png
"""

import argparse
import io
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset

from bridge import jax2torch, to_jax

BATCH, RATE = 64, 3e-3


class CNN(linen.Module):
    """From images of 8x8 to 10 logits."""

    @linen.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = linen.Conv(16, (3, 3))(images)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.max_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Conv(32, (3, 3))(x))
        x = linen.Dropout(0.3, deterministic=not train)(x.reshape(len(x), -1))
        return linen.Dense(10)(x)


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels to train with, and to test with."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32").reshape(-1, 8, 8, 1) / 16
    parts: Any = train_test_split(images, labels, test_size=0.25, random_state=0)
    return parts


class TorchTraining:
    """A training in torch that can be saved and resumed; nothing in it knows of JAX."""

    def __init__(self, model: torch.nn.Module, epochs: int) -> None:
        self.model = model
        self.average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, epochs)
        self.parts = (self.model, self.average, self.optimizer, self.schedule)

    def epoch(self, loader: DataLoader[Any]) -> float:
        """Train for one epoch; return the mean loss."""
        self.model.train()
        losses = list[float]()
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average.update_parameters(self.model)
            losses.append(loss.item())
        self.schedule.step()
        return float(np.mean(losses))

    def accuracy(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """The share of digits that the averaged network recognizes."""
        self.average.eval()
        with torch.no_grad():
            return (self.average(images).argmax(1) == labels).double().mean().item()

    def save(self, file: Any) -> None:
        torch.save([part.state_dict() for part in self.parts], file)

    def resume(self, file: Any) -> None:
        for part, state in zip(self.parts, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)


def train_in_torch(module: Any, epochs: int) -> tuple[Any, list[float], list[float]]:
    """Return the trained network of torch, and its loss and accuracy after each epoch."""
    x, x_test, y, y_test = map(torch.from_numpy, data())
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True, drop_last=True)
    training = TorchTraining(jax2torch(module), epochs)
    losses, accuracies = list[float](), list[float]()
    for epoch in range(epochs):
        if epoch == epochs // 2:  # as if the process had ended here
            checkpoint = io.BytesIO()
            training.save(checkpoint)
            checkpoint.seek(0)
            training = TorchTraining(jax2torch(module), epochs)
            training.resume(checkpoint)
        losses.append(training.epoch(loader))
        accuracies.append(training.accuracy(x_test, y_test))
    return training.average.module, losses, accuracies


def train_in_flax(module: Any, variables: Any, epochs: int) -> tuple[list[float], list[float]]:
    """Return the loss and the accuracy after each epoch, of Flax and optax."""
    x, x_test, y, y_test = data()
    count = len(x) // BATCH
    rule = optax.adamw(optax.cosine_decay_schedule(RATE, epochs * count), weight_decay=1e-4)

    @jax.jit
    def step(params: Any, statistics: Any, state: Any, images: Any, labels: Any, key: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, new = module.apply(
                {"params": params, "batch_stats": statistics},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new["batch_stats"]

        (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), statistics, state, value

    params, statistics = variables["params"], variables["batch_stats"]
    average, state = params, rule.init(params)
    key, losses, accuracies = jax.random.key(0), list[float](), list[float]()
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))[: count * BATCH]
        values = list[float]()
        for chosen in order.reshape(count, BATCH):
            key, draw = jax.random.split(key)
            batch = x[chosen], y[chosen], draw
            params, statistics, state, value = step(params, statistics, state, *batch)
            average = optax.incremental_update(params, average, 0.1)
            values.append(float(value))
        losses.append(float(np.mean(values)))
        logits = module.apply({"params": average, "batch_stats": statistics}, x_test, train=False)
        accuracies.append(float((jnp.argmax(logits, 1) == y_test).mean()))
    return losses, accuracies


def draw(curves: dict[str, tuple[list[float], ...]], path: str) -> None:
    """Draw loss and accuracy by epoch."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for label, pair in curves.items():
        for axis, values in zip(axes, pair, strict=True):
            axis.plot(range(1, len(values) + 1), values, label=label)
    for axis, title in zip(axes, ("mean loss in training", "test accuracy"), strict=True):
        axis.set(xlabel="epoch", ylabel=title)
        axis.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", default="flax_in_torch.png", help="where the figure goes")
    options = parser.parse_args()

    module = CNN()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    trained, *curves = train_in_torch(module.bind(variables), options.epochs)
    in_torch, in_flax = tuple(curves), train_in_flax(module, variables, options.epochs)
    for name, (losses, accuracies) in {"torch": in_torch, "Flax": in_flax}.items():
        print(
            f"trained by {name}: loss {losses[-1]:.3f}, test accuracy {100 * accuracies[-1]:.1f}%"
        )

    images = data()[1]
    logits = to_jax(trained.eval())(images, train=False)
    difference = abs(np.asarray(logits) - trained(torch.from_numpy(images)).detach().numpy()).max()
    print(f"back in Flax, its logits differ by {difference:.1e}")
    draw({"torch": in_torch, "Flax and optax": in_flax}, options.output)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
