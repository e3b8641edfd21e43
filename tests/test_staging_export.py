"""Exported programs, packages and caches with bridged functions, in processes of their own."""

import importlib
import os
import subprocess
import sys
import textwrap

import pytest

import bridge

torch = pytest.importorskip("torch")

from tests.compiling import COMPILED, assert_close, rows  # noqa: E402

pytestmark = COMPILED

LAYERS = """
    import jax.numpy as jnp
    import torch

    from bridge import jax2torch


    @jax2torch
    def layer(x, weights, *, flip):
        y = jnp.tanh(x @ weights["w"])
        return {"y": y[::-1] if flip else y, "best": jnp.argmax(y, axis=1)}


    @jax2torch
    def double(x):
        return jnp.concatenate([x, jnp.sin(x)])


    anonymous = [jax2torch(lambda x: jnp.cos(x) * x)][0]


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2))

        def forward(self, x):
            result = layer(double(x) * 2, {"w": self.w}, flip=True)
            return result["y"] + 1, result["best"]


    class Plain(torch.nn.Module):
        def forward(self, x):
            return double(x).exp()


    class Anonymous(torch.nn.Module):
        def forward(self, x):
            return anonymous(x)
"""


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """A module of bridged functions, as a user's package has one."""
    pytest.importorskip("jax")
    tmp_path.joinpath("layers_to_export.py").write_text(textwrap.dedent(LAYERS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "layers_to_export", raising=False)
    yield importlib.import_module("layers_to_export")
    sys.modules.pop("layers_to_export", None)


def bare_python(code, *args, cwd):
    """What `code` prints in an interpreter that has run nothing else, and what it complains of."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    home = os.path.dirname(os.path.dirname(bridge.__file__))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": home},
    )


RUN = """
    import sys, torch
    import bridge, layers_to_export
    bridge.register_calls("torch")
    for path in sys.argv[1:]:
        program = torch.export.load(path + ".pt2").module()
        torch.save([program(x) for x in torch.load(path + ".inputs")], path + ".outputs")
"""


RUN_WITHOUT = """
    import sys, torch, bridge
    bridge.jax2torch(lambda x: x)(torch.ones(2))
    for path in sys.argv[1:]:
        try:
            torch.export.load(path + ".pt2").module()(*torch.load(path + ".inputs"))
        except Exception as error:
            print(f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}: {error}")
"""


def saved(program, path, inputs):
    torch.export.save(program, f"{path}.pt2")
    torch.save(inputs, f"{path}.inputs")
    return path


def test_exported_programs_run_in_a_fresh_process(layers, tmp_path):
    net, size = layers.Net(), torch.export.Dim("size")
    fixed = torch.export.export(net, (rows(),))
    free = torch.export.export(net, (rows(),), dynamic_shapes={"x": {0: size}})
    inputs = {"fixed": [rows() + 1], "free": [rows(), rows(7), rows(2)]}
    paths = [
        saved(program, tmp_path / name, inputs[name])
        for name, program in (("fixed", fixed), ("free", free))
    ]
    process = bare_python(RUN, *paths, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for path in paths:
        expected = [native(net.w.detach(), x) for x in inputs[path.name]]
        assert_close(torch.load(f"{path}.outputs"), expected)


def native(w, x):
    y = torch.tanh(torch.concatenate([x, x.sin()]) * 2 @ w)
    return y.flip(0) + 1, y.argmax(1)


def test_export_names_functions_by_where_they_are_imported_from(layers):
    graph = torch.export.export(layers.Net(), (rows(),)).graph
    calls = [node for node in graph.nodes if node.target is torch.ops.bridge.call.default]
    names = [call.args[0] for call in calls]
    assert names == ["layers_to_export:double", "layers_to_export:layer"]


def test_export_knows_the_sizes_of_results(layers):
    shapes = {"x": {0: torch.export.Dim("size")}}
    program = torch.export.export(layers.Plain(), (rows(),), dynamic_shapes=shapes)
    (x,) = [node for node in program.graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    y = output.args[0][0].meta["val"]
    assert str(y.shape[0]) == f"2*{x.meta['val'].shape[0]}"
    assert y.shape[1] == 3


def test_an_exported_program_has_gradients(layers):
    net = layers.Net()
    program = torch.export.export(net, (rows(),)).module()
    y, _ = program(rows())
    y.sum().backward()
    w = net.w.detach().requires_grad_()
    native(w, rows())[0].sum().backward()
    assert_close(program.w.grad, w.grad)


@pytest.mark.slow
def test_loaded_programs_that_miss_their_function_say_so(layers, tmp_path):
    """The operator is there; the module of the one function is not, and the other has no name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    nets = {"plain": layers.Plain(), "anonymous": layers.Anonymous()}
    paths = [
        saved(torch.export.export(net, (rows(),)), elsewhere / name, [rows()])
        for name, net in nets.items()
    ]
    process = bare_python(RUN_WITHOUT, *paths, cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    plain, anonymous = process.stdout.splitlines()
    for text in (plain, anonymous):
        assert text.startswith("bridge.")
        assert "import" in text
    assert "layers_to_export:double" in plain
    assert "<lambda>" in anonymous


PACKAGED = """
    import sys, torch
    import bridge, layers_to_export
    bridge.register_calls("torch")
    package = torch._inductor.aoti_load_package(sys.argv[1])
    torch.save(package(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.slow
def test_ahead_of_time_package_runs_in_a_fresh_process(layers, tmp_path):
    program = torch.export.export(layers.Plain(), (rows(),))
    paths = [tmp_path / name for name in ("plain.pt2", "x", "y")]
    torch._inductor.aoti_compile_and_package(program, package_path=str(paths[0]))
    torch.save(rows() + 1, paths[1])
    process = bare_python(PACKAGED, *paths, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    x = rows() + 1
    assert_close(torch.load(paths[2]), torch.concatenate([x, x.sin()]).exp())


# What staging costs others

EAGER = """
    import sys, torch

    def use(f):
        x = torch.tensor([0.5, 2.0], requires_grad=True)
        f(x).sum().backward()
        torch.func.grad(lambda x: f(x).sum())(x.detach())

    use(torch.sin)
    before = set(sys.modules)
    import jax.numpy, bridge
    use(bridge.jax2torch(jax.numpy.sin))
    print(*[name for name in set(sys.modules) - before if name.startswith("torch._")])
"""


def test_eager_calls_do_not_load_the_compiler(tmp_path):
    pytest.importorskip("jax")
    process = bare_python(EAGER, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    loaded = process.stdout.split()
    assert not [name for name in loaded if name.startswith(("torch._dynamo", "torch._inductor"))]


EDITED = """
    import importlib, pathlib, sys, torch
    import layers_to_export as layers
    x = torch.tensor([[0.5, 2.0], [-1.0, 0.3]])
    path = pathlib.Path(layers.__file__)
    original = path.read_text()
    for edit in (None, *sys.argv[1:]):
        path.write_text(original.replace("jnp.concatenate([x, jnp.sin(x)])", edit or "jnp.sin(x)"))
        importlib.invalidate_caches()
        layers = importlib.reload(layers)
        torch.compiler.reset()
        step = torch.compile(lambda x: layers.double(x * 2) + 1, fullgraph=True)
        torch.testing.assert_close(step(x), layers.double(x * 2) + 1)
"""
EDITS = ["jnp.sin(x).astype(jnp.float16)", "jnp.tile(x, (3, 1))"]


def test_caches_of_inductor_know_when_a_function_has_changed(layers, tmp_path):
    """As a user's has who edits it and starts anew: the graphs are equal in text.

    In a process of its own, which a kernel for another dtype may take down.
    """
    process = bare_python(EDITED, *EDITS, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
