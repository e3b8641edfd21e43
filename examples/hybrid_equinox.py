"""A network of torch and one of Equinox in one model, trained together on the wine dataset.

`torch2jax(body).to_equinox()` is an `eqx.Module`: its parameters are leaves of the model, so that
`eqx.filter_grad` finds them and optax trains both halves. Held as it is, the object of torch would
be no leaf, and would stay as it was.

    python examples/hybrid_equinox.py
"""

import argparse
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from bridge import to_jax, to_torch, torch2jax


class Hybrid(eqx.Module):
    """Features by torch, logits by Equinox."""

    body: Any
    head: eqx.nn.Linear

    def __call__(self, x: Any) -> jax.Array:
        return self.head(self.body(x))


def features() -> torch.nn.Module:
    """From 13 measurements to 8 features."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(13, 16), torch.nn.GELU(), torch.nn.LayerNorm(16)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 8), torch.nn.Tanh())


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measurements and cultivars to train with, and to test with."""
    x, y = load_wine(return_X_y=True)
    parts: Any = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    x, x_test, y, y_test = parts
    scaler: Any = StandardScaler().fit(x)
    return (
        scaler.transform(x).astype("float32"),
        scaler.transform(x_test).astype("float32"),
        y,
        y_test,
    )


def loss(model: Hybrid, x: np.ndarray, y: np.ndarray) -> jax.Array:
    """Mean cross-entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150)
    steps = parser.parse_args().steps

    x, x_test, y, y_test = data()
    body = torch2jax(features(), lower="xla").to_equinox()
    model = Hybrid(body, eqx.nn.Linear(8, 3, key=jax.random.key(0)))
    rule = optax.adam(5e-3)
    state = rule.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model: Hybrid, state: Any) -> Any:
        value, gradients = eqx.filter_value_and_grad(loss)(model, x, y)
        updates, state = rule.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    before = to_torch(model.body)
    for _ in range(steps):
        model, state, value = step(model, state)
    accuracy = float((jnp.argmax(jax.vmap(model)(x_test), 1) == y_test).mean())
    print(f"loss {float(value):.3f}, test accuracy {100 * accuracy:.1f}%")

    after = to_torch(model.body)
    with torch.no_grad():
        pairs = zip(before.parameters(), after.parameters(), strict=True)
        moved = max(float((a - b).abs().max()) for a, b in pairs)
        by_torch = to_jax(after(torch.from_numpy(x_test)))
    print(f"the parameters of torch have moved by up to {moved:.2f}")
    logits = jax.vmap(model.head)(by_torch)
    accuracy = float((jnp.argmax(logits, 1) == y_test).mean())
    print(f"test accuracy {100 * accuracy:.1f}% with features by torch itself")


if __name__ == "__main__":
    main()
