"""A GPT-2 of Hugging Face, written in torch, trained in JAX over four devices.

`torch2jax(model, lower="xla")` makes code of XLA of it, which `jax.jit` partitions: each device
holds a quarter of the larger parameters, and takes a quarter of the batch. The model is tiny, made
from its config, and learns the characters of texts that come with Python. At the end the weights
are back in the model of torch, which compares the gradient with its own and writes a few lines.

    python examples/transformers_in_jax.py
"""

import argparse
import codecs
import contextlib
import doctest
import heapq
import io
import os
import statistics
from typing import Any

# Four devices of the host, asked for before JAX is imported.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import numpy as np
import optax
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from transformers import GPT2Config, GPT2LMHeadModel

from bridge import to_torch, torch2jax

CONTEXT, BATCH = 64, 16


def text() -> str:
    """The Zen of Python, and what some modules of the standard library say of themselves."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    introductions = [module.__doc__ or "" for module in (argparse, doctest, heapq, statistics)]
    return "\n".join([codecs.decode(this.s, "rot13"), *introductions])


def tiny_gpt2(vocabulary: int) -> GPT2LMHeadModel:
    """A model of two layers of width 64, with dropout."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=CONTEXT,
            n_embd=64,
            n_layer=2,
            n_head=4,
            bos_token_id=None,
            eos_token_id=None,
            use_cache=False,
        )
    )


def sharding(mesh: Mesh, x: jax.Array) -> NamedSharding:
    """Where a parameter lies: split along its first axis, if that can be divided by four."""
    is_split = x.ndim > 1 and x.shape[0] % mesh.size == 0
    return NamedSharding(mesh, P("devices") if is_split else P())


def mean_loss(net: Any, params: Any, tokens: Any, key: jax.Array | None) -> jax.Array:
    """Cross-entropy of each next character."""
    words = {} if key is None else {"rng": key}
    output, _ = net.apply(params, net.buffers, tokens[:, :-1], **words)
    losses = optax.softmax_cross_entropy_with_integer_labels(output.logits, tokens[:, 1:])
    return losses.mean()


def train(net: Any, mesh: Mesh, tokens: np.ndarray, steps: int) -> tuple[Any, float]:
    """Return the trained parameters, and the mean loss of the last ten steps."""
    rule = optax.adamw(3e-3)
    params = {name: jax.device_put(x, sharding(mesh, x)) for name, x in net.params.items()}
    state = rule.init(params)

    @jax.jit
    def step(params: Any, state: Any, batch: jax.Array, key: jax.Array) -> Any:
        loss = lambda params: mean_loss(net, params, batch, key)
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    random, losses = np.random.default_rng(0), list[float]()
    for key in jax.random.split(jax.random.key(0), steps):
        starts = random.integers(0, len(tokens) - CONTEXT - 1, BATCH)
        batch = np.stack([tokens[i : i + CONTEXT + 1] for i in starts])
        batch = jax.device_put(batch, NamedSharding(mesh, P("devices")))
        params, state, value = step(params, state, batch, key)
        losses.append(float(value))
    return params, float(np.mean(losses[-10:]))


def largest_difference(net: Any, params: Any, tokens: np.ndarray) -> float:
    """Between the gradients of JAX and of torch, in evaluation."""
    net.module.eval()
    batch = tokens[: BATCH * (CONTEXT + 1)].reshape(BATCH, CONTEXT + 1)
    in_jax = jax.jit(jax.grad(lambda params: mean_loss(net, params, batch, None)))(params)
    ids = torch.tensor(batch, dtype=torch.int64)
    logits = net.module(ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    in_torch = {name: x.grad for name, x in net.module.named_parameters()}
    return max(
        float(abs(np.asarray(in_jax[name]) - g.numpy()).max()) for name, g in in_torch.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps

    characters = sorted({*text()})
    tokens = np.array([characters.index(c) for c in text()], dtype="int32")
    model: Any = tiny_gpt2(len(characters))
    net = torch2jax(model, lower="xla")
    mesh = Mesh(jax.devices(), ("devices",))
    params, loss = train(net, mesh, tokens, steps)
    weight = params["transformer.h.0.mlp.c_fc.weight"]
    print(f"a weight {weight.shape} lies on {len(weight.devices())} devices")
    print(f"loss {loss:.2f} of {np.log(len(characters)):.2f} for a guess")

    gathered = jax.device_put(params, jax.devices()[0])
    model.load_state_dict(to_torch(gathered), strict=False)
    print(f"largest difference to torch's gradient {largest_difference(net, params, tokens):.1e}")
    start = torch.tensor([[characters.index(c) for c in "Beautiful is"]])
    written = model.generate(start, max_new_tokens=48, do_sample=False, pad_token_id=0)
    print("".join(characters[i] for i in written[0]))


if __name__ == "__main__":
    main()
