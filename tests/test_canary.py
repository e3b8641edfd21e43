"""What `nox -s canary` lists: the names that no framework promises, and which are gone."""

import importlib.util
import pathlib
import re

import pytest

CANARY = pathlib.Path(__file__).parents[1] / ".ci" / "canary.py"


@pytest.fixture
def canary():
    spec = importlib.util.spec_from_file_location("canary", CANARY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = """
import torch
import torch.utils._pytree as pytree
from jax._src import util
from jax.extend.core import Primitive

hook = getattr(torch._C, "_hook", None)
names = pytree.tree_map, torch.nn.Linear, torch.empty.__doc__, util.name, getattr(util, "kind")
modules.get("torch._dynamo")
try:
    from jaxlib._jax import capsule
except ImportError:
    capsule = torch._six
"""
UNPROMISED = {
    "torch.utils._pytree": False,
    "torch.utils._pytree.tree_map": False,
    "jax._src.util": False,
    "jax._src.util.name": False,
    "jax._src.util.kind": False,
    "jax.extend.core.Primitive": False,
    "torch._C": False,
    "torch._C._hook": True,
    "torch._dynamo": True,
    "torch._six": False,
    "jaxlib._jax.capsule": True,
}


def test_names_are_listed_with_their_fallbacks(canary, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert {name: optional for name, _, optional in canary.unpromised(path)} == UNPROMISED


def test_a_room_for_upstream_names_lists_all_but_the_top(canary, tmp_path):
    path = tmp_path / "upstream" / "module.py"
    path.parent.mkdir()
    path.write_text("import torch\nx = torch.nn.Linear, torch.empty")
    assert [name for name, *_ in canary.unpromised(path)] == ["torch.nn.Linear"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("json", True),
        ("json.decoder.JSONDecoder.decode", True),
        ("json.decoder.nothing", False),
        ("json.nothing.decode", False),
        ("no_such_package.name", False),
    ],
)
def test_a_name_exists_or_is_gone(canary, name, expected):
    assert canary.exists(name) is expected


def test_a_name_that_is_gone_fails_unless_it_has_a_fallback(canary, tmp_path, monkeypatch, capsys):
    for framework in ("torch", "jax", "mlx"):
        pytest.importorskip(framework)
    monkeypatch.setattr(canary, "PACKAGE", tmp_path)
    module = tmp_path / "module.py"
    module.write_text("import numpy\ngetattr(numpy, '_nothing', None)")
    assert canary.main() == 0
    assert "gone, with a fallback  numpy._nothing" in capsys.readouterr().out
    module.write_text("import numpy\n\nnumpy._nothing")
    assert canary.main() == 1
    assert f"GONE  numpy._nothing  ({tmp_path.name}/module.py:3)" in capsys.readouterr().out


def test_nothing_without_a_fallback_is_gone(canary, capsys):
    for framework in ("torch", "jax", "mlx"):
        pytest.importorskip(framework)
    assert canary.main() == 0, capsys.readouterr().out


def test_only_the_rooms_for_them_use_names_that_are_not_promised(canary):
    """But for `jax.extend` and `jax.interpreters`, which are there for others to build on."""
    modules = [path for path in canary.PACKAGE.rglob("*.py") if "upstream" not in path.parts]
    assert len(modules) > 100
    used = {name for path in modules for name, *_ in canary.unpromised(path)}
    assert not [name for name in used if not name.startswith(("jax.extend.", "jax.interpreters"))]
    attributes = re.compile(
        r"export_to_dot|\._(version|schema|modules|dynamo_\w+|backward_hooks)\b"
    )
    assert not [path for path in modules if attributes.search(path.read_text())]
