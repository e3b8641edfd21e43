"""PennyLane: exact circuits by `jax2torch`, devices and shots by `numpy2torch`."""

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane import numpy as trainable

from bridge import jax2torch, numpy2torch
from bridge.rules import Jacobian, ParameterShift
from bridge.testing import check_rule
from tests.quantum.agreement import assert_agrees, close
from tests.quantum.truth import FREQUENCIES, POINTS, WEIGHTS, expectations

pytestmark = pytest.mark.quantum
RULES = {name: ParameterShift(frequencies) for name, frequencies in FREQUENCIES.items()}
ALL_FREQUENCIES = ParameterShift((0.5, 1.0, 2.0))


def circuit(x, w, fixed=0.4):
    qml.RX(x[0], 0)
    qml.RY(x[1], 1)
    qml.RY(fixed, 0)
    qml.CNOT([0, 1])
    qml.RY(w[0], 1)
    qml.CRY(w[1], [1, 2])
    qml.RZ(w[2], 0)
    qml.CNOT([2, 0])
    qml.RY(w[2], 0)
    return qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Z(2))


def node(device, shots=None, **options):
    on_device = qml.QNode(circuit, qml.device(device, wires=3, seed=0), **options)
    return qml.set_shots(on_device, shots)


def all_points(device, shots=None):
    """The circuit as a vectorized function of torch."""
    run = node(device, shots)
    # With shots, default.qubit returns one point without its axis.
    values = lambda x, w: np.stack(run(x.T, w.T), axis=-1).reshape(len(x), 2)
    return numpy2torch(values, gradient=RULES, vectorized=True)


def qnode_in_jax(shots=None):
    run = node("default.qubit", shots)
    return lambda x, w: jnp.stack(jax.tree.leaves(run(x, w)))


def test_exact_circuits_by_jax():
    assert_agrees(jax2torch(qnode_in_jax()), expectations, POINTS, WEIGHTS)


@pytest.mark.parametrize("device", ["default.qubit", "lightning.qubit"])
def test_devices_run_all_points_in_one_call(device):
    function = all_points(device)
    assert_agrees(function, expectations, POINTS, WEIGHTS)
    function = all_points(device)
    x, w = POINTS.clone().requires_grad_(), WEIGHTS.clone().requires_grad_()
    torch.vmap(function, in_dims=(0, None))(x, w).square().sum().backward()
    # Two inputs at two shifts, then weights at 2, 4 and 4 shifts.
    assert (function.evaluations, function.calls) == (3 + 3 * (2 * 2 + 2 + 4 + 4), 2)


def trained(*arrays):
    return [trainable.array(np.asarray(array), requires_grad=True) for array in arrays]


def adjoint_jacobian():
    run = node("lightning.qubit", diff_method="adjoint")
    jacobian = qml.jacobian(lambda x, w: qml.math.stack(run(x, w)))
    return lambda x, w: jacobian(*trained(x, w))


def test_lightning_by_its_adjoint_method():
    run = node("lightning.qubit")
    rule = Jacobian(adjoint_jacobian(), then=ALL_FREQUENCIES)
    function = numpy2torch(lambda x, w: np.stack(run(x, w)), gradient=rule)
    assert_agrees(function, expectations, POINTS, WEIGHTS)


def test_lightning_by_its_adjoint_method_with_frequencies_of_each_argument():
    run, jacobian = node("lightning.qubit"), adjoint_jacobian()
    rules = {name: Jacobian(jacobian, then=rule) for name, rule in RULES.items()}
    function = numpy2torch(lambda x, w: np.stack(run(x, w)), gradient=rules)
    assert_agrees(function, expectations, POINTS, WEIGHTS)


def test_quirk_lightning_through_torch_returns_single_precision():
    results = node("lightning.qubit", interface="torch")(POINTS[0], WEIGHTS)
    assert [y.dtype for y in results] == [torch.float32] * 2
    assert all_points("lightning.qubit")(POINTS[0], WEIGHTS).dtype == torch.float64


def test_quirk_lightning_through_torch_has_zero_second_derivatives():
    run = node("lightning.qubit", interface="torch")
    hessian = torch.autograd.functional.hessian(lambda w: run(POINTS[0], w)[0], WEIGHTS)
    assert torch.count_nonzero(hessian) == 0


SHOTS = 2000


def test_values_and_gradients_with_shots_are_right_on_average():
    function = all_points("default.qubit", SHOTS)
    x, w = POINTS[0], WEIGHTS
    repeats = 50
    for derive in (lambda f: f, torch.func.jacrev):
        derivative = derive(lambda w: function(x, w))
        samples = torch.stack([derivative(w) for _ in range(repeats)])
        errors = samples.mean(0) - derive(lambda w: expectations(x, w))(w)
        spread = samples.std(0)
        assert spread.max() > 0.01
        assert (errors.abs() <= 5 * spread / repeats**0.5 + 1e-12).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_by_jax_with_shots_where_all_arguments_have_the_dtype_of_the_flag(dtype):
    jax.config.update("jax_enable_x64", dtype == "float64")
    function = jax2torch(qnode_in_jax(SHOTS))
    x, w = (a.to(getattr(torch, dtype)) for a in (POINTS[0], WEIGHTS))
    jacobians = torch.func.jacrev(function, argnums=(0, 1))(x, w)
    expected = torch.func.jacrev(expectations, argnums=(0, 1))(x, w)
    close(jacobians, expected, atol=0.2, rtol=0)


def plain_gradient(function, dtypes, argnums):
    """The gradient in JAX, without the bridge, in 64 bits for everything."""
    jax.config.update("jax_enable_x64", True)
    x, w = (jnp.asarray(a, d) for a, d in zip((POINTS[0], WEIGHTS), dtypes, strict=True))
    return jax.jit(jax.grad(lambda x, w: function(x, w).sum(), argnums))(x, w)


def test_quirk_shots_in_jax_refuse_single_precision_beside_double():
    function = qnode_in_jax(SHOTS)
    plain_gradient(function, ("float64", "float64"), 1)
    with pytest.raises(TypeError, match=r"Custom JVP rule must produce"):
        plain_gradient(function, ("float64", "float32"), 1)
    weights = WEIGHTS.float().requires_grad_()
    with pytest.raises(TypeError, match=r"Custom JVP rule must produce"):
        torch.autograd.grad(jax2torch(function)(POINTS[0], weights).sum(), weights)


def test_quirk_shot_vectors_in_jax_have_no_gradient():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        plain_gradient(qnode_in_jax((SHOTS, SHOTS)), ("float64", "float64"), 1)


def test_quirk_without_jit_second_derivatives_in_jax_are_zero():
    run, x = node("default.qubit", diff_method="adjoint"), POINTS[0].numpy()
    first = lambda w: run(x, w)[0]
    twice = lambda derive, function: derive(derive(function))
    with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
        twice(torch.func.jacrev, jax2torch(first))(WEIGHTS)
    assert not twice(torch.func.jacrev, jax2torch(first, jit=False))(WEIGHTS).any()
    jax.config.update("jax_enable_x64", True)
    assert not twice(jax.jacrev, first)(jnp.asarray(WEIGHTS)).any()


def test_quirk_callbacks_of_jax_do_not_see_64_bits_that_are_turned_on_for_a_call():
    """A part of the callbacks runs on threads of XLA, for which JAX has only its flag."""

    def sums(x):
        call = lambda y: jax.pure_callback(np.array, jax.ShapeDtypeStruct((), y.dtype), y)
        matrix = jnp.ones((400, 400), x.dtype) * x
        squares = [(matrix + k) @ matrix for k in range(8)]
        return sum(square.sum() + call(square[0, 0]) for square in squares)

    narrowed = pytest.raises((ValueError, RuntimeError), match="Expected: float64")
    with jax.enable_x64(True), narrowed:
        for _ in range(50):
            jax.jit(sums)(jnp.float64(0.3)).block_until_ready()
    with narrowed:
        for _ in range(50):
            jax2torch(sums)(torch.tensor(0.3, dtype=torch.float64))
    jax.config.update("jax_enable_x64", True)
    jax2torch(sums)(torch.tensor(0.3, dtype=torch.float64))


def frequencies(spectrum):
    """The positive frequencies of `qnode_spectrum`, a row for each element of each argument."""
    return {
        name: tuple(tuple(float(f) for f in row if f > 0) for _, row in sorted(rows.items()))
        for name, rows in spectrum.items()
    }


def test_frequencies_come_from_the_spectrum():
    spectrum = qml.fourier.qnode_spectrum(node("default.qubit"), argnum=[0, 1])
    assert frequencies(spectrum(*trained(POINTS[0], WEIGHTS, 0.4))) == FREQUENCIES


def test_frequencies_are_checked_by_values():
    check_rule(all_points("default.qubit"), POINTS[0], WEIGHTS)
    run = node("default.qubit")
    values = lambda x, w: np.stack(run(x.T, w.T), axis=-1)
    too_few = numpy2torch(values, gradient=ParameterShift(), vectorized=True)
    with pytest.raises(AssertionError, match=r"w\[1\]"):
        check_rule(too_few, POINTS[0], WEIGHTS)


def test_quirk_a_fixed_angle_shifts_the_spectrum():
    spectrum = qml.fourier.qnode_spectrum(node("default.qubit"))
    found = frequencies(spectrum(*trained(POINTS[0], WEIGHTS)))
    assert found["w"] == ((1.0,), (1.0,), (0.5, 1.0, 1.5, 2.0))
    assert found["w"] != FREQUENCIES["w"]
