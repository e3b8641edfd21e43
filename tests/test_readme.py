"""README.md and what it speaks of agree."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest

import bridge
from bridge import _registry
from tests.processes import use_loopback
from tests.records import recorder

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(capsys):
    for framework in ("torch", "jax", "mlx.core"):
        pytest.importorskip(framework)
    use_loopback()
    namespace: dict[str, object] = {}
    for match in re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        libraries = re.findall(r"^(?:import|from) (flax|equinox)\b", match[1], re.MULTILINE)
        if not all(map(importlib.util.find_spec, libraries)):
            continue
        # The empty lines let a traceback name the line of README.md.
        code = "\n" * README.count("\n", 0, match.start(1)) + match[1]
        exec(compile(code, ROOT / "README.md", "exec"), namespace)
    assert capsys.readouterr().out.startswith("tensor(")


FRAMEWORKS = ("torch", "jax", "mlx")


def test_table_has_the_directions_of_the_registry():
    works = {(s, t): f"`{s}2{t}`" for s, t in _registry.directions()}
    for source in FRAMEWORKS:
        (row,) = re.findall(rf"^\| {source} \| (.* \| .* \| .*) \|$", README, re.M | re.I)
        native = {(source, source): "native"}
        wanted = [(works | native)[source, target] for target in FRAMEWORKS]
        assert row.split(" | ") == wanted


X = np.array([0.5, -1.25, 2.0], dtype="float32")
# What the second table promises, on f(x) = x**3, with what it is by hand.
ABILITIES = {
    "gradient": (lambda kit, f, x: kit.grad(lambda x: f(x).sum())(x), 3 * X**2),
    "higher orders": (
        lambda kit, f, x: kit.grad(lambda x: kit.grad(lambda x: f(x).sum())(x).sum())(x),
        6 * X,
    ),
    "forward mode": (lambda kit, f, x: kit.jvp(f, (x,), (2 * x,)), 6 * X**3),
    "batching": (lambda kit, f, x: kit.vmap(f)(x), X**3),
    "compiling": (lambda kit, f, x: kit.compile(lambda x: f(x) + 1)(x), X**3 + 1),
}


@pytest.mark.parametrize("ability", ABILITIES)
def test_table_says_what_a_direction_does(kits, bridged, ability):
    source, target = kits
    (columns,) = re.findall(r"^\| direction \| (gradient.*) \|$", README, re.M)
    (cells,) = re.findall(rf"^\| `{source.name}2{target.name}` \| (yes.*) \|$", README, re.M)
    promised = dict(zip(columns.split(" | "), cells.split(" | "), strict=True))[ability]
    attempt, by_hand = ABILITIES[ability]
    calls, record = recorder()

    def cube(x):
        record(1)
        return x * x * x

    f, x = bridged(cube), target.array(X)
    if promised == "yes":
        np.testing.assert_allclose(target.numpy(attempt(target, f, x)), by_hand, rtol=1e-6)
        assert calls
        return
    with pytest.raises((bridge.BridgeError, ValueError), match=r"mx\.compile"):
        target.numpy(attempt(target, f, x))


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^    (pip install nox.*)$", README, re.MULTILINE)
    assert commands == ["pip install nox && nox -s demo", "pip install nox && nox"]
    *_, last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert last == commands[1]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
