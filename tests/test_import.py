"""What `import bridge` loads and leaves alone, and what a missing framework says."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

import bridge

MODULES = {"torch": "torch", "jax": "jax", "mlx": "mlx.core"}
HERE = [name for name in MODULES if importlib.util.find_spec(name)]


def run(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def block(name: str) -> str:
    """Code after which no import of `name` succeeds, as if it were not installed."""
    return textwrap.dedent(f"""
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {name!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

        sys.meta_path.insert(0, Block())
    """)


def test_import_loads_no_framework():
    loaded = run("import sys, bridge; print(*{name.partition('.')[0] for name in sys.modules})")
    assert "bridge" in loaded.split()
    assert not {"torch", "jax", "jaxlib", "mlx"} & set(loaded.split())


@pytest.mark.skipif(not {"torch", "jax"} <= {*HERE}, reason="needs torch and JAX")
def test_wrapping_does_not_import_what_captures():
    """Which takes as long as importing torch; the first call does."""
    heavy = run("""
        import sys, torch, jax, bridge
        before = {*sys.modules}
        bridge.torch2jax(torch.sin)
        bridge.torch2jax(torch.nn.Linear(2, 2))
        heavy = {"sympy", "torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd"}
        print(*(heavy & {*sys.modules}) - before)
    """)
    assert heavy.split() == []


@pytest.mark.skipif(not {"torch", "jax"} <= {*HERE}, reason="needs torch and JAX")
def test_modules_of_jax_do_not_need_its_libraries():
    loaded = run("""
        import sys, torch, jax, bridge
        for name in ("flax", "equinox", "haiku"):
            sys.modules[name] = None  # as if it were not installed
        scale = jax.tree_util.Partial(jax.numpy.multiply, jax.numpy.array([2.0, 3.0]))
        for fn in (scale, bridge.Functional(jax.numpy.multiply, jax.numpy.array([2.0, 3.0]))):
            print(bridge.jax2torch(fn)(torch.ones(2)).tolist())
        print(bridge.jax2torch(jax.numpy.sin)(torch.zeros(1)).tolist())
    """)
    assert loaded.split("\n") == ["[2.0, 3.0]", "[2.0, 3.0]", "[0.0]"]


def test_import_changes_no_environment_variable():
    run("""
        import os
        before = dict(os.environ)
        import bridge
        assert dict(os.environ) == before
    """)


def test_import_changes_no_warning_filter_and_no_import_hook():
    run("""
        import sys, warnings
        import ml_dtypes, numpy, optree
        before = warnings.filters[:], sys.meta_path[:], sys.path_hooks[:], sys.path[:]
        import bridge
        assert (warnings.filters, sys.meta_path, sys.path_hooks, sys.path) == before
    """)


def test_import_changes_no_jax_config():
    pytest.importorskip("jax")
    run("""
        import jax
        before = dict(jax.config.values)
        import bridge
        assert dict(jax.config.values) == before
    """)


def test_import_changes_no_torch_default():
    pytest.importorskip("torch")
    state = "(torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled())"
    run(f"""
        import torch
        before = {state}
        import bridge
        assert {state} == before
    """)


@pytest.mark.parametrize(("missing", "other"), [("torch", "jax"), ("jax", "torch")])
def test_jax2torch_without_a_framework_names_the_extra(missing, other):
    if other not in HERE:
        pytest.skip(f"{other} is missing too")
    message = run(f"""
        {textwrap.indent(block(missing), " " * 8).strip()}
        import bridge

        try:
            bridge.jax2torch(lambda x: x)(1.0)
        except bridge.BridgeError as error:
            assert isinstance(error, ImportError), type(error).__mro__
            print(error)
    """)
    assert f"pip install 'gradbridge[{missing}]'" in message


@pytest.mark.parametrize("missing", ["torch", "jax", "mlx"])
def test_values_to_a_missing_framework_name_the_extra(missing):
    message = run(f"""
        {textwrap.indent(block(missing), " " * 8).strip()}
        import bridge, numpy

        try:
            bridge.to_{missing}(numpy.ones(3))
        except bridge.BridgeError as error:
            assert isinstance(error, ImportError), type(error).__mro__
            print(error)
    """)
    assert f"pip install 'gradbridge[{missing}]'" in message


def test_mlx_without_a_backend_counts_as_missing(tmp_path):
    """On Linux `pip install mlx` gives a package that lacks `mlx.core`."""
    package = tmp_path / "mlx"
    package.mkdir()
    (package / "utils.py").touch()
    message = run(f"""
        import sys
        import types
        mlx = sys.modules["mlx"] = types.ModuleType("mlx")
        mlx.__path__ = [{str(package)!r}]
        import bridge, numpy

        try:
            bridge.to_mlx(numpy.ones(3))
        except bridge.MissingFrameworkError as error:
            print(error)
    """)
    assert "import mlx.core failed" in message
    assert "pip install 'gradbridge[mlx]'" in message


def outdated(path, name, version, requirements):
    """What converting to a framework of `version` raises, where bridge asks for `requirements`."""
    package = path / name
    package.mkdir()
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (package / "core.py").write_text(f"__version__ = {version!r}\n")
    metadata = path / "gradbridge-99.dist-info"
    metadata.mkdir()
    lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
    text = ["Metadata-Version: 2.4", "Name: gradbridge", "Version: 99", *lines, ""]
    (metadata / "METADATA").write_text("\n".join(text))
    return run(f"""
        import sys
        sys.path.insert(0, {str(path)!r})
        import bridge, numpy

        try:
            bridge.to_{name}(numpy.ones(3))
        except ImportError as error:
            print(type(error).__name__, error)
    """)


@pytest.mark.parametrize(
    ("name", "version", "requirement", "floor"),
    [
        ("jax", "0.7.2", "jax>=0.10; extra == 'jax'", "0.10"),
        ("mlx", "0.29", "mlx[cpu]>=0.32; (sys_platform == 'linux') and extra == 'mlx'", "0.32"),
        ("torch", "2.9.1+cu128", "torch!=2.12.0,>=2.11; extra == 'torch'", "2.11"),
        ("torch", "2.11.0a0+git1234", "torch>=2.11.1; extra == 'torch'", "2.11.1"),
    ],
)
def test_an_old_framework_is_named_with_the_version_needed(
    tmp_path, name, version, requirement, floor
):
    others = ["numpy>=2.0", f"{name}-metal>=99", "gradbridge[torch,jax,mlx]; extra == 'all'"]
    assert outdated(tmp_path, name, version, [*others, requirement]) == (
        f"OutdatedFrameworkError {name} {version} is installed, and bridge needs {floor} or later: "
        f"pip install -U 'gradbridge[{name}]'"
    )


@pytest.mark.parametrize("version", ["0.10.0", "0.10", "0.10.0.dev20261129", "0.12.0.1", "1"])
def test_a_new_framework_is_taken(tmp_path, version):
    """It fails in JAX, which here is an empty package."""
    message = outdated(tmp_path, "jax", version, ["jax>=0.10; extra == 'jax'"])
    assert message.startswith(("ImportError", "ModuleNotFoundError")), message


def test_a_checkout_that_is_not_installed_has_no_floors(tmp_path):
    message = outdated(tmp_path, "jax", "0.7.2", [])
    assert message.startswith(("ImportError", "ModuleNotFoundError")), message


def test_import_loads_no_metadata():
    run("""
        import sys
        import ml_dtypes, numpy, optree
        before = "importlib.metadata" in sys.modules
        import bridge
        assert ("importlib.metadata" in sys.modules) == before
    """)


@pytest.fixture
def distribution():
    try:
        return importlib.metadata.distribution("gradbridge")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("bridge is imported from a checkout that is not installed")


def test_every_framework_has_an_extra(distribution):
    extras = distribution.metadata.get_all("Provides-Extra")
    assert {*MODULES, "demo", "testing", "all"} == set(extras)


def test_version_is_that_of_the_distribution(distribution):
    assert bridge.__version__ == distribution.version


def test_the_frameworks_of_this_session_are_installed_and_no_others():
    expected = os.environ.get("GRADBRIDGE_TEST_FRAMEWORKS")
    if expected is None:
        pytest.skip("only a nox session says which frameworks it installed")
    assert set(expected.split(",")) == set(HERE)
    for name in set(MODULES) - set(HERE):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(MODULES[name])


WRAPPERS = [f"{source}2{target}" for source, target in bridge._registry.directions()]


@pytest.mark.parametrize("order", ["before the frameworks", "after the frameworks"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapping_a_function_imports_nothing(wrapper, order):
    """So a decorator at the top of a module costs microseconds; the first call imports."""
    frameworks = ", ".join(MODULES[name] for name in wrapper.split("2"))
    if not {*wrapper.split("2")} <= {*HERE}:
        pytest.skip("a framework is missing")
    imported = run(
        f"""
        import functools, sys
        {f"import {frameworks}" if order.startswith("after") else ""}
        import bridge
        wrap = bridge.{wrapper}
        before = {{*sys.modules}}

        @wrap
        def function(x):
            return x * x

        class Scale:
            def times(self, x):
                return 2 * x

            def __call__(self, x):
                return 3 * x

        @wrap(static_argnames="n", device="cpu")
        def power(x, n):
            return x**n

        others = [wrap(f) for f in (Scale().times, Scale(), functools.partial(pow, exp=2), abs)]
        print(*{{*sys.modules}} - before)
    """.replace(', device="cpu"', "" if wrapper.endswith("mlx") else ', device="cpu"')
    )
    assert imported.split() == []


@pytest.mark.parametrize("missing", [*MODULES])
def test_wrapping_for_a_missing_framework_names_the_extra(missing):
    """At once, although it is imported only at the first call."""
    pairs = {name: {*name.split("2")} for name in WRAPPERS if missing in name.split("2")}
    wrapper = next((name for name, pair in pairs.items() if pair - {missing} <= {*HERE}), None)
    if wrapper is None:
        pytest.skip(f"needs a framework beside {missing}")
    for hidden in (block(missing), f"import sys; sys.modules[{missing!r}] = None"):
        message = run(f"""
            {textwrap.indent(hidden, " " * 12).strip()}
            import bridge

            try:
                bridge.{wrapper}(lambda x: x)
            except bridge.MissingFrameworkError as error:
                print(error)
        """)
        assert f"pip install 'gradbridge[{missing}]'" in message
