"""Programs of JAX with functions of torch in them, exported or found in a cache."""

import importlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from bridge import ArgumentError, mlx2jax, torch2jax
from tests.processes import ROOT

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("flatbuffers", reason="jax.export needs it to serialize")
export = importlib.import_module("jax.export")
jnp = jax.numpy

MODULE = """
import torch
from bridge import torch2jax

W = torch.tensor([[1.0, 2.0], [0.5, -1.0]])

@torch2jax
def layer(x, p, scale=2.0, *, names=("a",)):
    return {"y": torch.tanh(x @ W) * p[names[0]] ** scale, "max": x.amax()}

@torch2jax(capture="never")
def anew(x):
    return x * 3
"""
START = """
import json, sys
import jax, jax.export, jax.numpy as jnp
import torch

def programs(layer):
    loss = lambda x, p: (layer(x, p)["y"] ** 2).sum() + layer(x, p, scale=3.0)["max"]
    return {
        "value": lambda x, p: layer(x, p, names=("b", 1))["y"],
        "grad": jax.grad(loss),
        "hessian": jax.hessian(loss, 1),
        "batch": lambda x, p: jax.vmap(jax.grad(loss), (0, None))(jnp.stack([x, 2 * x]), p),
        "scan": lambda x, p: jax.lax.scan(lambda c, r: (c, loss(r * c, p)), x, jnp.ones(3))[1],
    }

x = jnp.array([[0.3, -1.2], [0.7, 0.1]])
p = {"a": jnp.array([1.5, 0.5]), "b": jnp.array([-2.0, 1.0])}
OURS = jax.export.DisabledSafetyCheck.custom_call("gradbridge_call")
plain = lambda tree: jax.tree.map(lambda y: y.tolist(), tree)
"""
EXPORT = """
from torch_layers import anew, layer
for name, program in {**programs(layer), "anew": lambda x, p: anew(x)}.items():
    made = jax.export.export(jax.jit(program), disabled_checks=[OURS])(x, p)
    with open(name, "wb") as file:
        file.write(made.serialize())
"""
LOAD = """
import torch_layers, bridge
bridge.register_calls("jax")
found = {}
for name in [*programs(None), "anew"]:
    with open(name, "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    found[name] = plain(program.call(x, p))
print(json.dumps(found))
"""


def native(x, p, scale=2.0, *, names=("a",)):
    w = jnp.array([[1.0, 2.0], [0.5, -1.0]])
    return {"y": jnp.tanh(x @ w) * p[names[0]] ** scale, "max": x.max()}


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "torch_layers.py"
    path.write_text(textwrap.dedent(MODULE))
    return path


def run(folder, code, **env):
    """The process that runs `code` in a folder."""
    paths = os.pathsep.join([str(ROOT), str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths, **env},
    )


def printed(folder, code, **env):
    process = run(folder, code, **env)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_exported_programs_run_in_a_fresh_process(module):
    folder = module.parent
    assert run(folder, EXPORT).returncode == 0
    found = printed(folder, LOAD)
    scope = {}
    exec(START, scope)
    x, p = scope["x"], scope["p"]
    for name, program in scope["programs"](native).items():
        expected = scope["plain"](program(x, p))
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        jax.tree.map(close, found[name], expected)
    np.testing.assert_allclose(found["anew"], 3 * x)

    refused = printed(folder, CHANGED, PYTHONDONTWRITEBYTECODE="1")
    assert all("torch_layers:layer is not what it was when" in text for text in refused[:3])
    assert "cannot be imported here as a bridged function" in refused[3]
    assert "default dtype of torch was torch.float32, and here it is torch.float64" in refused[4]


CHANGED = """
import importlib, pathlib, torch_layers, bridge
bridge.register_calls("jax")
path = pathlib.Path("torch_layers.py")
text = path.read_text()
with open("grad", "rb") as file:
    saved = bytearray(file.read())

def refused():
    importlib.reload(torch_layers)
    try:
        jax.export.deserialize(saved).call(x, p)
    except jax.errors.JaxRuntimeError as error:
        return str(error)

found = []
for old, new in {
    "torch.tanh(x @ W)": "torch.sin(x @ W) + W.sum()",
    "-1.0]])": "-1.5, ]])",
    "x.amax()": "x.sum()",
    "@torch2jax\\ndef": "def",
}.items():
    path.write_text(text.replace(old, new))
    found.append(refused())
path.write_text(text)
torch.set_default_dtype(torch.float64)
print(json.dumps([*found, refused()]))
"""
CACHED = """
import torch_layers
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
jax.config.update("jax_compilation_cache_dir", "cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
grad = jax.jit(jax.grad(lambda x, p: torch_layers.layer(x, p)["y"].sum()))
both = jax.jit(lambda x: torch_layers.anew(x) + 1)
print(json.dumps([plain(grad(x, p)), plain(both(x)), sum(hits)]))
"""


def test_programs_in_a_cache_call_the_function_of_their_process(module):
    folder, text = module.parent, module.read_text()
    x, p = np.array([[0.3, -1.2], [0.7, 0.1]], np.float32), np.array([1.5, 0.5], np.float32)
    w = np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)

    def slope(derivative):
        return (derivative(x @ w) * p**2) @ w.T

    def check(slope, times):
        found, other, hits = printed(folder, CACHED)
        np.testing.assert_allclose(found, slope, rtol=1e-4)
        np.testing.assert_allclose(other, times * x + 1, rtol=1e-5)
        return hits

    tanh = slope(lambda y: 1 - np.tanh(y) ** 2)
    assert check(tanh, 3) == 0
    assert check(tanh, 3) >= 2
    module.write_text(text.replace("torch.tanh", "torch.sin").replace("x * 3", "x * 45"))
    assert check(slope(np.cos), 45) >= 1


def test_a_module_loaded_again_has_functions_of_its_own(module, monkeypatch):
    monkeypatch.syspath_prepend(module.parent)
    layers = importlib.import_module("torch_layers")
    x = jnp.array([0.5, -1.5])
    old = jax.jit(layers.anew)
    np.testing.assert_array_equal(old(x), 3 * x)
    module.write_text(module.read_text().replace("x * 3", "x * 45"))
    importlib.invalidate_caches()
    new = jax.jit(importlib.reload(layers).anew)
    np.testing.assert_array_equal(new(x), 45 * x)
    np.testing.assert_array_equal(old(x), 3 * x)
    sys.modules.pop("torch_layers")


OURS = export.DisabledSafetyCheck.custom_call("gradbridge_call")


@torch2jax
def sine(x, how=None):
    return torch.sin(x)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (torch2jax(lambda x: x * 3), r"<lambda> has no name .* find it by: it cannot be imported"),
        (torch2jax(torch.sin), r"sin has no name .* it cannot be imported\. Wrap a function at"),
        (lambda x: sine(x, how=torch.float32), "sine has no name .* a dtype among its arguments"),
    ],
    ids=["lambda", "wrapped elsewhere", "static value"],
)
def test_what_has_no_name_elsewhere_is_not_exported(call, text):
    x = jnp.ones(3)
    call(x)
    with pytest.raises(ArgumentError, match=text):
        export.export(jax.jit(call), disabled_checks=[OURS])(x)


def doubled(x):
    return 2 * x


def test_what_cannot_be_told_from_a_changed_function_is_not_exported():
    pytest.importorskip("mlx.core")
    there = mlx2jax(doubled)
    there.__module__, there.__qualname__ = __name__, "DOUBLED"
    globals()["DOUBLED"] = there
    x = jnp.ones(3)
    np.testing.assert_array_equal(jax.jit(there)(x), 2 * x)
    with pytest.raises(ArgumentError, match=r"doubled has no name .* whether it has changed"):
        export.export(jax.jit(there), disabled_checks=[OURS])(x)


def test_a_target_that_nobody_allowed_is_refused_by_jax():
    with pytest.raises(ValueError, match="gradbridge_call"):
        export.export(jax.jit(sine))(jnp.ones(3))


def test_the_derivative_of_an_exported_program():
    made = export.export(jax.jit(sine), disabled_checks=[OURS])(jnp.ones(3))
    again = export.deserialize(made.serialize(vjp_order=2))
    x = jnp.array([0.5, -1.0, 2.0])
    np.testing.assert_allclose(jax.grad(lambda x: again.call(x).sum())(x), np.cos(x), rtol=1e-5)
    found = jax.grad(lambda x: jax.grad(lambda x: again.call(x).sum())(x).sum())(x)
    np.testing.assert_allclose(found, -np.sin(x), rtol=1e-5)
