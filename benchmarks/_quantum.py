"""A training step of a quantum circuit: the same PennyLane code under JAX, torch and ours."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pennylane
import torch

from benchmarks._contenders import (
    BY_HAND,
    OURS,
    RECOMPUTE,
    SAVE,
    loss_floor,
    ours,
    split_floor,
    vetted,
)
from benchmarks._machine import Effort
from benchmarks._peers import NAMES as PEERS, peers
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import jax2torch

PURE, PENNYLANE = "jitted jax.value_and_grad", "PennyLane's torch backprop"
LOSS_OUTSIDE = "jax2torch, loss in torch"
BY_HAND_OUTSIDE = f"{BY_HAND}, loss in torch"
_LAYERS, _BATCH = 4, 32


@dataclasses.dataclass(frozen=True)
class Problem:
    """A circuit and float64 data to fit it to.

    Attributes:
        qubits: Of the circuit.
        weights: What is trained, [layers, qubits, 3].
        angles: What is embedded, [batch, qubits].
        targets: What the expectation values should be, [batch, qubits].
    """

    qubits: int
    weights: np.ndarray
    angles: np.ndarray
    targets: np.ndarray

    def data(self) -> tuple[np.ndarray, ...]:
        """The arguments of the loss."""
        return self.weights, self.angles, self.targets

    def outputs(self, interface: str) -> Callable[[Any, Any], Any]:
        """The expectation values, a function of weights and angles."""
        wires = range(self.qubits)
        device = pennylane.device("default.qubit", wires=self.qubits)

        @pennylane.qnode(device, interface=interface, diff_method="backprop")
        def circuit(weights: Any, angles: Any) -> list[Any]:
            pennylane.AngleEmbedding(angles, wires=wires, rotation="Y")
            pennylane.StronglyEntanglingLayers(weights, wires=wires)
            return [pennylane.expval(pennylane.PauliZ(wire)) for wire in wires]

        return lambda weights, angles: pennylane.math.stack(circuit(weights, angles), axis=-1)

    def loss(self, interface: str) -> Callable[[Any, Any, Any], Any]:
        """The mean squared error, a function of weights, angles and targets."""
        return _error(self.outputs(interface))


def _error(outputs: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    def loss(weights: Any, angles: Any, targets: Any) -> Any:
        return ((outputs(weights, angles) - targets) ** 2).mean()

    return loss


def problem(qubits: int) -> Problem:
    """The circuit of this size, with random data."""
    random = np.random.default_rng(qubits)
    return Problem(
        qubits,
        weights=random.uniform(0, 2 * np.pi, (_LAYERS, qubits, 3)),
        angles=random.uniform(0, np.pi, (_BATCH, qubits)),
        targets=random.uniform(-1, 1, (_BATCH, qubits)),
    )


def losses(case: Problem) -> dict[str, Callable[..., Any]]:
    """The loss as a function of tensors; each compiles when it is first called."""
    return {
        **ours(case.loss("jax")),
        LOSS_OUTSIDE: _error(jax2torch(case.outputs("jax"))),
        BY_HAND: loss_floor(case.loss("jax"), count=1),
        BY_HAND_OUTSIDE: _error(split_floor(case.outputs("jax"), count=1)),
        PENNYLANE: case.loss("torch"),
    }


def pure_step(case: Problem) -> Step:
    """A training step without the optimizer, in JAX alone."""
    arrays = [jax.device_put(x) for x in case.data()]
    pure = jax.jit(jax.value_and_grad(case.loss("jax")))
    return lambda: jax.block_until_ready(pure(*arrays))


def torch_step(case: Problem, loss: Callable[..., torch.Tensor]) -> Step:
    """A training step without the optimizer, in torch around `loss`."""
    weights, angles, targets = (torch.tensor(x) for x in case.data())
    weights.requires_grad_()

    def step() -> tuple[torch.Tensor, torch.Tensor | None]:
        weights.grad = None
        value = loss(weights, angles, targets)
        value.backward()
        return value, weights.grad

    return step


def training(effort: Effort) -> Iterator[Measurement]:
    """The training step at each number of qubits, one after the other."""
    # JAX in 64-bit mode throughout, as its own users would have it: the reference pays nothing.
    with jax.enable_x64(True):  # noqa: FBT003, as JAX spells it
        for qubits in effort.qubits:
            yield _training(qubits, effort)


def _training(qubits: int, effort: Effort) -> Measurement:
    case = problem(qubits)
    smallest = qubits == min(effort.qubits)  # peers take minutes to compile the others
    others, missing = peers(case.loss("jax"), take_part=effort.peers and smallest)
    calls = losses(case) | others
    running = {PURE: pure_step(case)} | {n: torch_step(case, call) for n, call in calls.items()}
    expected = [np.asarray(x) for x in running[PURE]()]
    fit, unfit = vetted(running, expected, optional=PEERS)
    return Measurement(
        title=f"training step, {qubits} qubits, {_LAYERS} layers, batch {_BATCH}, float64",
        unit="ms",
        values=timed(fit, seconds=effort.seconds(2 * qubits), scale=1e3),
        reference=PURE,
        bars=_bars(qubits),
        missing=missing | unfit,
        notes=[f"`{calls[OURS]!r}`"],
    )


def _bars(qubits: int) -> list[Bar]:
    inside, outside = {4: (1.5, 2.0), 8: (1.05, 1.2), 12: (1.0, 1.05)}[qubits]
    return [
        Bar(f"within {inside:g}x jitted jax.value_and_grad", OURS, PURE, inside),
        Bar(f"with the loss in torch, within {outside:g}x of that", LOSS_OUTSIDE, PURE, outside),
        Bar("the same two by hand: the loss inside", BY_HAND, PURE),
        Bar("and the loss in torch", BY_HAND_OUTSIDE, PURE),
        Bar("no slower than PennyLane's own torch backprop", OURS, PENNYLANE, 1.0),
        Bar("time of recompute against save", RECOMPUTE, SAVE),
    ]
