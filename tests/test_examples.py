"""The examples run, learn, and draw what they say."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(name, *options):
    """What the example prints."""
    command = [sys.executable, EXAMPLES / name, *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_digits_learns_and_draws(tmp_path):
    for package in ("torch", "jax", "pennylane", "sklearn", "tqdm"):
        pytest.importorskip(package)
    image = pytest.importorskip("matplotlib.image")
    figure = tmp_path / "figure.png"

    text = run_example("digits.py", "--quick", "--output", figure)
    # Chance is 10%; ten epochs bring the model with the circuit to 85%, the other to 95%.
    for name in ("with circuit", "without circuit"):
        train, test = (
            float(share)
            for share in re.search(rf"^{name} .*? ([\d.]+)% +([\d.]+)%", text, re.M).groups()
        )
        assert 70 < train <= 100
        assert 70 < test <= 100
    error = float(re.search(r"finite differences: (\S+)", text)[1])
    assert error < 1e-8
    pixels = image.imread(figure)
    assert pixels.shape == (600, 1950, 4)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 100


def test_digits_in_jax_learns():
    for package in ("torch", "jax", "optax", "sklearn", "tqdm"):
        pytest.importorskip(package)
    text = run_example("digits_in_jax.py", "--epochs", "3")
    assert 85 < float(re.search(r"test accuracy ([\d.]+)%", text)[1]) <= 100
    assert float(re.search(r"to torch's gradient (\S+)", text)[1]) < 1e-5


def test_digits_with_mlx_learn():
    for package in ("torch", "mlx.core", "sklearn", "tqdm"):
        pytest.importorskip(package)
    text = run_example("digits_with_mlx.py", "--epochs", "4")
    # Without the gradient of the crop the first reaches 37%; 15 epochs bring both to 95%.
    in_mlx, in_torch = map(float, re.findall(r"test accuracy ([\d.]+)%", text))
    assert 60 < in_mlx <= 100
    assert 80 < in_torch <= 100


def test_solver_finds_what_is_behind_the_data(tmp_path):
    for package in ("torch", "jax", "scipy", "matplotlib"):
        pytest.importorskip(package)
    figure = tmp_path / "figure.png"
    text = run_example("solver.py", "--quick", "--output", figure)
    rows = re.findall(r"^\w+ +([\d.]+) +([\d.]+) +([\d.]+)$", text, re.M)
    assert len(rows) == 4 + 5
    for true, found, error in np.array(rows, float):
        assert abs(found - true) < 4 * error
    assert float(re.search(r"to finite differences: (\S+)", text)[1]) < 1e-7
    assert float(re.search(r"SciPy's least_squares: (\S+)", text)[1]) < 1e-2
    assert float(re.search(r"Fourier series: (\S+)", text)[1]) < 1e-5
    assert figure.stat().st_size > 10_000


def test_shots_are_trained_by_two_rules(tmp_path):
    for package in ("torch", "pennylane", "matplotlib"):
        pytest.importorskip(package)
    figure = tmp_path / "figure.png"
    text = run_example("shots.py", "--quick", "--output", figure)
    start = float(re.search(r"at the start: ([\d.]+)", text)[1])
    ends = [float(end) for end in re.findall(r"exact loss ([\d.]+) after", text)]
    # A fifth of the evaluations: parameter shifts come to 1/16 of the loss, SPSA to 1/6.
    assert ends[0] < start / 8
    assert ends[1] < start / 3
    deviations = re.findall(r"gradients: ([\d.]+) standard errors", text)
    assert [float(deviation) < 5 for deviation in deviations] == [True, True]
    assert figure.stat().st_size > 10_000


def test_adjoint_gradients_lead_to_the_ground_state(tmp_path):
    for package in ("torch", "jax", "pennylane", "matplotlib"):
        pytest.importorskip(package)
    figure = tmp_path / "figure.png"
    text = run_example("adjoint.py", "--quick", "--output", figure)
    runs = re.findall(r"^Newton in \w+: errors at steps 0 to 4: (.*);", text, re.M)
    assert len(runs) == 2
    for run in runs:
        errors = [abs(float(error)) for error in run.split(", ")]
        assert errors[0] > 1e-2
        # Each step squares the error, which takes a right Hessian.
        assert errors[1] < 1e-3
        assert errors[2] < 1e-7
        assert errors[4] < 1e-12
    assert float(re.search(r"against backpropagation: (\S+)", text)[1]) < 1e-12
    assert float(re.search(r"at 3 distances: (\S+)", text)[1]) < 1e-9
    assert figure.stat().st_size > 10_000


def test_estimator_learns_the_same_in_torch_and_jax(tmp_path):
    for package in ("torch", "jax", "optax", "qiskit", "pennylane", "sklearn", "matplotlib"):
        pytest.importorskip(package)
    figure = tmp_path / "figure.png"
    text = run_example("estimator.py", "--quick", "--output", figure)
    # One epoch comes to 90%, and each step takes one job forward and one backward.
    runs = re.findall(r"(\d+) steps, accuracy on new images ([\d.]+)%; (\d+) jobs", text)
    assert len(runs) == 2
    for steps, share, jobs in runs:
        assert 75 < float(share) <= 100
        assert int(jobs) == 2 * int(steps)
    assert float(re.search(r"difference of the losses: (\S+)", text)[1]) < 1e-4
    assert float(re.search(r"against PennyLane: (\S+)", text)[1]) < 1e-10
    assert figure.stat().st_size > 10_000


def test_pulses_are_shaped(tmp_path):
    for package in ("torch", "jax", "dynamiqs", "matplotlib"):
        pytest.importorskip(package)
    figure = tmp_path / "figure.png"
    text = run_example("pulses.py", "--quick", "--output", figure)
    assert float(re.search(r"against matrix exponentials: (\S+)", text)[1]) < 1e-10
    assert float(re.search(r"against Rabi's formula: (\S+)", text)[1]) < 1e-10
    pairs = re.findall(r"of the flip, (\w+): (\S+)", text)
    infidelities = {name: float(value) for name, value in pairs}
    assert infidelities["envelope"] > 1e-2
    # 2000 steps come to 2.5e-7.
    assert infidelities["network"] < infidelities["DRAG"] < 1e-3
    assert figure.stat().st_size > 10_000


def test_a_transformer_trains_over_four_devices():
    for package in ("torch", "jax", "optax", "transformers"):
        pytest.importorskip(package)
    text = run_example("transformers_in_jax.py", "--steps", "60")
    assert "lies on 4 devices" in text
    loss, guess = map(float, re.search(r"loss ([\d.]+) of ([\d.]+)", text).groups())
    assert loss < 0.7 * guess  # 300 steps bring it to half of it
    assert float(re.search(r"to torch's gradient (\S+)", text)[1]) < 1e-5
    assert text.splitlines()[-1].startswith("Beautiful is")


def test_a_network_of_flax_trains_in_torch(tmp_path):
    for package in ("torch", "jax", "flax", "optax", "sklearn"):
        pytest.importorskip(package)
    image = pytest.importorskip("matplotlib.image")
    figure = tmp_path / "figure.png"
    text = run_example("flax_in_torch.py", "--epochs", "4", "--output", figure)
    # Chance is 10%; twelve epochs bring both to 96%.
    for name in ("torch", "Flax"):
        accuracy = float(re.search(rf"trained by {name}: .* accuracy ([\d.]+)%", text)[1])
        assert 80 < accuracy <= 100
    assert float(re.search(r"its logits differ by (\S+)", text)[1]) < 1e-4
    pixels = image.imread(figure)
    assert pixels.shape == (525, 1350, 4)
    assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 50


def test_a_residual_network_of_torch_trains_in_nnx():
    for package in ("torch", "jax", "flax", "optax", "sklearn"):
        pytest.importorskip(package)
    text = run_example("torch_in_nnx.py", "--epochs", "2")
    in_jax, in_torch = map(float, re.findall(r"test accuracy ([\d.]+)%", text))
    assert in_jax == in_torch  # six epochs bring both to 99%
    assert 85 < in_jax <= 100


def test_both_halves_of_a_hybrid_train():
    for package in ("torch", "jax", "equinox", "optax", "sklearn"):
        pytest.importorskip(package)
    text = run_example("hybrid_equinox.py")
    in_jax, with_torch = map(float, re.findall(r"test accuracy ([\d.]+)%", text))
    assert in_jax == with_torch > 90
    assert float(re.search(r"have moved by up to ([\d.]+)", text)[1]) > 0.1


def test_shards_of_two_processes_are_handed_over():
    for package in ("torch", "jax", "flax", "sklearn"):
        pytest.importorskip(package)
    text = run_example("processes.py", "--epochs", "3")
    assert sorted(re.findall(r"process (\d) holds \(32, 64\) of \(64, 64\)", text)) == ["0", "1"]
    assert 80 < float(re.search(r"test accuracy ([\d.]+)%", text)[1]) <= 100
    assert float(re.search(r"to one process (\S+)", text)[1]) < 1e-4


def test_op_on_three_backends_passes_its_tests():
    here = [name for name in ("torch", "jax", "mlx") if importlib.util.find_spec(name)]
    command = [sys.executable, "-m", "pytest", "-p", "bridge._testing.plugin", "-q", "-rA"]
    folder = EXAMPLES / "op_on_three_backends"
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--backends", ",".join(here)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, folder)))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    for name in here:
        assert f"PASSED test_log_cosh.py::test_values[{name}-float64-strided]" in run.stdout
    same = f"{', '.join(here[:-1])} and {here[-1]} agree"
    assert (same in run.stdout) == (len(here) > 1)


def test_op_on_three_backends_has_sessions_for_sets_of_frameworks():
    path = EXAMPLES / "op_on_three_backends" / "noxfile.py"
    compile(path.read_text(encoding="utf-8"), path, "exec")
    if importlib.util.find_spec("nox"):
        command = [sys.executable, "-m", "nox", "--list", "--noxfile", path]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "tests(torch,jax,mlx)" in listed
        assert "versions(torch='2.11')" in listed
