"""Tracebacks show what the user wrote, and one frame of this package for each bridged call."""

import os
import subprocess
import sys
import traceback

import numpy as np
import pytest

import bridge
from tests.kits import kit

X = np.array([0.3, -1.2], np.float32)
FOLDER = os.path.dirname(bridge.__file__) + os.sep
KIT = os.path.join(FOLDER, "_testing") + os.sep  # whose functions a test calls itself


class WrongPhysicsError(Exception):
    pass


def energy(x):
    raise WrongPhysicsError("energy below zero")


def frames(call, error=WrongPhysicsError):
    """Of ours, and all, from the first function of this file on, by name."""
    with pytest.raises(error) as caught:
        call()
    found = traceback.extract_tb(caught.value.__traceback__)
    found = [frame for frame in found if not frame.filename.startswith(KIT)]
    names = [frame.name for frame in found if not frame.filename.startswith(FOLDER)]
    return len(found) - len(names), names[1:], caught.value


def test_function_that_raises(kits, bridged):
    _, target = kits
    x = target.array(X)
    there = bridged(energy)
    for _ in range(2):  # the second call is of a function that is known
        ours, names, error = frames(lambda: there(x))
        assert (ours, names) == (1, ["<lambda>", "energy"])
        assert str(error) == "energy below zero"


def test_function_that_is_run_anew(kits, bridged):
    _, target = kits
    x, broken = target.array(X), []

    def energy(x):
        if broken:
            raise WrongPhysicsError
        return x * 2

    there = bridged(energy, jit=False)
    there(x)
    broken.append(True)
    ours, names, _ = frames(lambda: there(x))
    assert (ours, names) == (1, ["<lambda>", "energy"])
    if target.name == "jax":  # whose errors from within a program have a text alone
        with pytest.raises(RuntimeError, match="WrongPhysicsError") as caught:
            target.compile(there)(x).block_until_ready()
        assert str(caught.value).count(FOLDER) <= 1


def test_error_of_ours_ends_at_the_call(kits, bridged):
    _, target = kits
    x = target.array(X)
    ours, names, _ = frames(lambda: bridged(lambda x: "text")(x), bridge.ArgumentError)
    assert (ours, names) == (1, ["<lambda>"])


def test_function_under_a_transformation(kits, bridged):
    _, target = kits
    for transform in (target.grad, target.vmap):
        ours, names, _ = frames(
            lambda transform=transform: transform(bridged(energy))(target.array(X))
        )
        assert ours == 1
        assert names[-1] == "energy"


def test_functions_within_functions():
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    del jax
    inner = bridge.torch2jax(lambda x: energy(x))
    middle = lambda x: inner(x)
    outer = bridge.jax2torch(middle)
    ours, names, _ = frames(lambda: outer(torch.tensor(X)))
    assert (ours, names) == (2, ["<lambda>", "<lambda>", "<lambda>", "energy"])


def custom(name):
    """A function whose gradient raises."""
    if name == "torch":
        torch = pytest.importorskip("torch")

        class Identity(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 1

            @staticmethod
            def backward(ctx, cotangent):
                return energy(cotangent)

        return Identity.apply
    jax = pytest.importorskip("jax")

    @jax.custom_vjp
    def identity(x):
        return x * 1

    identity.defvjp(lambda x: (x * 1, None), lambda _, cotangent: energy(cotangent))
    return identity


@pytest.mark.parametrize("options", [{}, {"jit": False}], ids=str)
def test_gradient_that_raises_in_torch(options):
    torch = pytest.importorskip("torch")
    y = bridge.jax2torch(custom("jax"), **options)
    x = torch.tensor(X, requires_grad=True)
    ours, names, _ = frames(lambda: y(x).sum().backward())
    assert ours == 1
    assert names[-1] == "energy"


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("target", ["jax", "mlx"])
def test_gradient_that_raises_elsewhere(target, capture):
    place = kit(target)
    there = getattr(bridge, f"torch2{target}")(custom("torch"), capture=capture)
    ours, names, _ = frames(lambda: place.grad(lambda x: there(x).sum())(place.array(X)))
    assert ours <= 2  # the call, and the rule that is asked for its derivative
    assert names[-2:] == ["backward", "energy"]


def test_causes_are_shortened_and_others_left_alone(kits, bridged):
    _, target = kits
    x = target.array(X)

    def fail(x):
        try:
            energy(x)
        except WrongPhysicsError as error:
            raise ValueError("no energy") from error

    _, names, error = frames(lambda: bridged(fail)(x), ValueError)
    assert names[-1] == "fail"
    causes = traceback.extract_tb(error.__cause__.__traceback__)
    assert [frame.name for frame in causes] == ["fail", "energy"]


def test_module_that_raises():
    torch, place = pytest.importorskip("torch"), kit("jax")

    class Net(torch.nn.Module):
        def forward(self, x):
            return energy(x)

    net = bridge.torch2jax(Net())
    ours, names, _ = frames(lambda: net.apply(net.params, net.buffers, place.array(X)))
    assert ours <= 2
    assert names == ["<lambda>", "forward", "energy"]


def test_all_frames_if_asked_for(kits, bridged, monkeypatch):
    _, target = kits
    monkeypatch.setenv("GRADBRIDGE_TRACEBACK", "full")
    ours, names, _ = frames(lambda: bridged(energy)(target.array(X)))
    assert ours > 5
    assert names[-1] == "energy"


def test_printed_traceback_is_short():
    """As the interpreter prints it, which reads what is written here and nothing else."""
    pytest.importorskip("jax"), pytest.importorskip("torch")
    code = "import bridge, torch\nbridge.jax2torch(lambda x: 1 / 0)(torch.ones(3))"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stderr.count('File "') == 3
    assert process.stderr.count(FOLDER) == 1
