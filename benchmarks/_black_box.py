"""Functions without autodiff: what their derivatives cost beside hand-written ones."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import numpy2jax, numpy2torch
from bridge.rules import ParameterShift

_OURS_IN_TORCH, _OURS_IN_JAX = "numpy2torch", "numpy2jax"
_BY_HAND, _CALLBACK = "autograd.Function by hand", "jax.pure_callback in a custom_vjp"
_PENNYLANE = "qml.gradients.param_shift_hessian"
_LIMITS = {4: None, 24: 3.0, 200: 2.0}  # of the time by hand, by the number of angles


def _sum_of_cosines(angles: np.ndarray) -> np.ndarray:
    return np.cos(angles).sum(-1)


def _shifted(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values at all angles shifted by a quarter forth and back, in one call."""
    shifts = np.pi / 2 * np.eye(angles.size)
    values = _sum_of_cosines(np.concatenate([angles + shifts, angles - shifts]))
    return values[: angles.size], values[angles.size :]


class _ByHand(torch.autograd.Function):
    """The two-term rule, written for one function of one vector."""

    @staticmethod
    def forward(ctx: Any, angles: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(angles)
        return torch.from_numpy(_sum_of_cosines(angles.numpy()[None])).reshape(())

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        (angles,) = ctx.saved_tensors
        forth, back = _shifted(angles.numpy())
        return cotangent * torch.from_numpy((forth - back) / 2)


def _by_callback() -> Callable[[jax.Array], jax.Array]:
    @jax.custom_vjp
    def call(angles: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda x: _sum_of_cosines(np.asarray(x)), jax.ShapeDtypeStruct((), angles.dtype), angles
        )

    def gradient(angles: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        forth, back = _shifted(np.asarray(angles))
        return (np.asarray(cotangent) * (forth - back) / 2).astype(angles.dtype)

    call.defvjp(
        lambda x: (call(x), x),
        lambda x, w: (jax.pure_callback(gradient, jax.ShapeDtypeStruct(x.shape, x.dtype), x, w),),
    )
    return call


def overhead(effort: Effort) -> list[Measurement]:
    """Forward and backward of a trivial vectorized function, in torch and in JAX."""
    return [*(_in_torch(effort, count) for count in _LIMITS), _in_jax(effort)]


def _in_torch(effort: Effort, count: int) -> Measurement:
    ours = numpy2torch(_sum_of_cosines, gradient=ParameterShift(), vectorized=True)
    angles = torch.randn(count, dtype=torch.float64, requires_grad=True)

    def step(call: Callable[[torch.Tensor], torch.Tensor]) -> Step:
        return lambda: torch.autograd.grad(call(angles), angles)[0]

    steps = {_BY_HAND: step(_ByHand.apply), _OURS_IN_TORCH: step(ours)}
    for found in (call() for call in steps.values()):
        torch.testing.assert_close(found, -angles.detach().sin(), rtol=0, atol=1e-10)
    limit = _LIMITS[count]
    text = f"within {limit:.0f}x that by hand" if limit else "against that by hand"
    return Measurement(
        title=f"black box in torch, {count} angles, forward and backward by the two-term rule",
        unit="us",
        values=timed(steps, seconds=effort.seconds(8), scale=1e6),
        reference=_BY_HAND,
        bars=[Bar(text, _OURS_IN_TORCH, _BY_HAND, limit)],
    )


def _in_jax(effort: Effort) -> Measurement:
    example = np.empty((), np.float32)
    ours = numpy2jax(_sum_of_cosines, gradient=ParameterShift(), vectorized=True, out=example)
    angles = jax.random.normal(jax.random.key(0), (24,))
    steps: dict[str, Step] = {}
    for name, call in {_CALLBACK: _by_callback(), _OURS_IN_JAX: ours}.items():
        gradient = jax.jit(jax.value_and_grad(call))
        steps[name] = lambda gradient=gradient: jax.block_until_ready(gradient(angles))
        np.testing.assert_allclose(gradient(angles)[1], -jnp.sin(angles), atol=1e-6)
    return Measurement(
        title="black box in JAX, 24 angles, value and gradient under jit by the two-term rule",
        unit="us",
        values=timed(steps, seconds=effort.seconds(8), scale=1e6),
        reference=_CALLBACK,
        bars=[Bar("against pure_callback", _OURS_IN_JAX, _CALLBACK)],
    )


def hessians(effort: Effort) -> list[Measurement]:
    """The Hessian of a circuit of PennyLane, beside its own transform."""
    return [_hessian(effort, qubits) for qubits in ((2,) if effort.quick else (2, 6))]


def _hessian(effort: Effort, qubits: int) -> Measurement:
    import pennylane as qml
    import pennylane.numpy as pnp

    count = 5 * qubits
    device = qml.device("default.qubit", wires=qubits)

    def circuit(angles: Any) -> Any:
        for layer in range(count // qubits):
            for wire in range(qubits):
                rotation = qml.RY if layer % 2 else qml.RX
                rotation(angles[layer * qubits + wire], wires=wire)
            for wire in range(qubits - 1):
                qml.CNOT([wire, wire + 1])
        return qml.expval(qml.PauliZ(qubits - 1))

    shifted = qml.QNode(circuit, device, diff_method="parameter-shift", max_diff=2)
    exact = qml.QNode(circuit, device, interface="torch", diff_method="backprop")
    plain = qml.QNode(circuit, device, diff_method=None)
    # PennyLane broadcasts over the last axis of each angle.
    ours = numpy2torch(
        lambda angles: np.asarray(plain(angles.T)), gradient=ParameterShift(), vectorized=True
    )
    values = np.random.default_rng(0).uniform(0, 6, count)
    angles, trainable = torch.tensor(values), pnp.array(values, requires_grad=True)
    hessian = torch.func.jacrev(torch.func.jacrev(ours))
    theirs = qml.gradients.param_shift_hessian(shifted)
    steps: dict[str, Step] = {
        _PENNYLANE: lambda: np.asarray(theirs(trainable)),
        _OURS_IN_TORCH: lambda: hessian(angles).numpy(),
    }
    expected = torch.func.hessian(exact)(angles).numpy()
    for call in steps.values():
        np.testing.assert_allclose(call(), expected, rtol=0, atol=1e-10)
    before = ours.evaluations
    steps[_OURS_IN_TORCH]()
    points = ours.evaluations - before
    with qml.Tracker(device) as tracker:
        steps[_PENNYLANE]()
    executions = tracker.totals.get("simulations", tracker.totals["executions"])
    return Measurement(
        title=f"Hessian of a PennyLane circuit of {count} angles by parameter shifts",
        unit="ms",
        values=timed(steps, seconds=effort.seconds(10), scale=1e3),
        reference=_PENNYLANE,
        bars=[Bar("no slower than PennyLane's own", _OURS_IN_TORCH, _PENNYLANE, 1.0)],
        notes=[f"{points} points; PennyLane: {executions} simulations."],
    )
