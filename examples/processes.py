"""A network of Flax, trained by FSDP2 of torch in two processes, and handed to JAX in shards.

Each process holds a half of every parameter and takes a half of each batch: `fully_shard` does not
know that the network is one of Flax. Then `to_jax(parameters, mesh=mesh)` makes sharded arrays of
the shards, where they are, without gathering or sending them, and Flax computes the test accuracy
over both processes. One process alone, trained on whole batches, has the same weights.

    python examples/processes.py
"""

import argparse
import os
import socket
import tempfile
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from bridge import jax2torch, to_jax

PROCESSES, BATCH = 2, 64


class Perceptron(linen.Module):
    """From 64 pixels to 10 logits."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (64, 32):
            x = linen.tanh(linen.Dense(width)(x))
        return linen.Dense(10)(x)


def data() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Images and labels to train with, and to test with."""
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    parts: Any = train_test_split(images, labels, test_size=0.25, random_state=0)
    x, x_test, y, y_test = parts
    return torch.from_numpy(x), torch.from_numpy(y), x_test, y_test


def network() -> torch.nn.Module:
    """The network of Flax as a module of torch; the same in each process."""
    flax = Perceptron()
    return jax2torch(flax.bind(flax.init(jax.random.key(0), jnp.zeros((1, 64)))))


def train(model: torch.nn.Module, part: slice, epochs: int) -> None:
    """Train on a part of each batch."""
    x, y, *_ = data()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=shuffle)[: len(x) // BATCH * BATCH]
        for batch in order.reshape(-1, BATCH):
            chosen = batch[part]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()


def test_accuracy(params: dict[str, jax.Array]) -> float:
    """The share of digits that Flax recognizes, with parameters wherever they are."""
    *_, x, y = data()

    @jax.jit
    def accuracy(params: Any) -> jax.Array:
        logits: Any = Perceptron().apply({"params": unflatten_dict(params, sep=".")}, x)
        return (jnp.argmax(logits, 1) == y).mean()

    return float(accuracy(params))


def work(rank: int, folder: str, port: int, epochs: int) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", PROCESSES, rank)
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=PROCESSES)

    mesh = init_device_mesh("cpu", (PROCESSES,), mesh_dim_names=("shards",))
    model = network()
    fully_shard(model, mesh=mesh)
    share = BATCH // PROCESSES
    train(model, slice(rank * share, (rank + 1) * share), epochs)

    values: dict[str, Any] = {name: x.detach() for name, x in model.named_parameters()}
    params = to_jax(values, mesh=Mesh(np.array(jax.devices()), ("shards",)), copy=False)
    kernel = params["Dense_0.kernel"]
    shard = kernel.addressable_shards[0].data
    print(f"process {rank} holds {shard.shape} of {kernel.shape}", flush=True)
    accuracy = test_accuracy(params)
    whole = {name: x.full_tensor() for name, x in values.items()}
    if rank == 0:
        print(f"test accuracy {100 * accuracy:.1f}% by Flax over {PROCESSES} processes")
        torch.save(whole, f"{folder}/weights")
    distributed.destroy_process_group()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("localhost", 0))
        return unused.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        arguments = folder, free_port(), epochs
        spawn(work, arguments, nprocs=PROCESSES)
        weights = torch.load(f"{folder}/weights", weights_only=True)
    alone = network()
    train(alone, slice(None), epochs)
    pairs = [(weights[name], x.detach()) for name, x in alone.named_parameters()]
    print(
        f"largest difference to one process {max(float((a - b).abs().max()) for a, b in pairs):.1e}"
    )


if __name__ == "__main__":
    main()
