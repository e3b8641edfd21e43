"""The pytest plugin: once for each framework, and nothing for a test that does not use it."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {"torch": "torch", "jax": "jax", "mlx": "mlx"}
HERE = [name for name in MODULES if importlib.util.find_spec(MODULES[name])]
ONE = HERE[-1]  # of several, the one that is imported fastest


@pytest.fixture
def run(tmp_path):
    """Run pytest on code in a process where bridge is installed; return what it prints."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    entries = settings["project"]["entry-points"]["pytest11"].items()
    installed = tmp_path / "installed" / "gradbridge-99.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.4\nName: gradbridge\nVersion: 99\n")
    lines = ["[pytest11]", *(f"{name} = {module}" for name, module in entries)]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")

    def run(code, *options, missing=()):
        (tests / "test_it.py").write_text(code)
        blocked = "".join(f"sys.modules[{MODULES[name]!r}] = None\n" for name in missing)
        (tests / "conftest.py").write_text(f"import sys\n{blocked}")
        path = os.pathsep.join([str(installed.parent), str(ROOT)])
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-rA", *options],
            cwd=tests,
            env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        return process.stdout + process.stderr

    return run


def outcomes(text):
    """The outcome of each test, by its name, as the summary has it."""
    pattern = r"^(PASSED|FAILED|XFAIL|SKIPPED|ERROR) test_it\.py::(\S+)"
    return {name: outcome for outcome, name in re.findall(pattern, text, re.M)}


ONCE = (
    "def test_square(backend):\n    x = backend.array([1.0, 2.0])\n    assert (x * x).sum() == 5\n"
)


def test_once_for_each_framework(run):
    missing = [name for name in MODULES if name not in HERE]
    text = run(ONCE)
    assert outcomes(text) == {f"test_square[{name}]": "PASSED" for name in HERE}
    for name in missing:
        assert f"pip install 'gradbridge[{name}]'" in text


def test_missing_framework_is_skipped_with_the_line_of_pip(run):
    text = run(ONCE, missing=("mlx",))
    assert "test_square[mlx]" not in outcomes(text)
    assert re.search(
        r"^SKIPPED .*mlx is not installed .*pip install 'gradbridge\[mlx\]'", text, re.M
    )
    text = run(ONCE, "--backends", "mlx", missing=("mlx",))
    assert outcomes(text) == {"test_square[mlx]": "ERROR"}
    assert "--backends asks for mlx: mlx is not installed" in text


def test_markers_and_command_line_choose(run):
    code = f"""
import pytest
pytestmark = pytest.mark.backends("{ONE}", "numpy")

{ONCE}

@pytest.mark.backends("numpy")
def test_values(backend):
    assert backend.name == "numpy"
"""
    expected = {f"test_square[{name}]": "PASSED" for name in (ONE, "numpy")}
    assert outcomes(run(code)) == {**expected, "test_values[numpy]": "PASSED"}
    text = run(code, "--backends", ONE)
    assert outcomes(text) == {f"test_square[{ONE}]": "PASSED"}
    assert "1 passed, 1 skipped" in text


def test_expected_failures_have_reasons_and_are_strict(run):
    code = f"""
import pytest

@pytest.mark.backends("{ONE}", "numpy", xfail={{"numpy": "numpy#1: no gradients"}})
def test_gradient(backend):
    backend.grad(lambda x: x * x)(backend.array(1.0))

@pytest.mark.backends("{ONE}", xfail={{"{ONE}": "gone"}})
def test_gone(backend):
    pass
"""
    text = run(code)
    assert outcomes(text) == {
        f"test_gradient[{ONE}]": "PASSED",
        "test_gradient[numpy]": "XFAIL",
        f"test_gone[{ONE}]": "FAILED",
    }
    assert "numpy#1: no gradients" in text
    assert "[XPASS(strict)] gone" in text


def test_dtypes_and_layouts(run):
    code = """
import numpy as np
import pytest

@pytest.mark.backends(
    dtypes=["bfloat16", "float64", "complex128"], layouts=["contiguous", "transposed", "strided"]
)
def test_it(backend):
    values = np.arange(1, 7, dtype="float32").reshape(2, 3)
    x = backend.array(values)
    assert str(x.dtype).split(".")[-1] == backend.dtype
    assert str(backend.array([1, 2]).dtype).split(".")[-1] == "int32"
    assert x.shape == (2, 3)
    np.testing.assert_array_equal(backend.numpy(x).astype("complex128"), values)
    if backend.name == "torch":
        strides = {"contiguous": (3, 1), "transposed": (1, 2), "strided": (6, 2)}
        assert x.stride() == strides[backend.layout]

def test_after_it(backend):
    if backend.name == "jax":
        import jax
        assert not jax.config.jax_enable_x64
        assert str(backend.array(1.0).dtype) == "float32"
"""
    text = run(code)
    found = outcomes(text)
    assert "FAILED" not in found.values()
    for name in HERE:
        assert found[f"test_it[{name}-float64-strided]"] == "PASSED"
        assert found[f"test_it[{name}-bfloat16-transposed]"] == "PASSED"
    assert ("mlx has no complex128" in text) == ("mlx" in HERE)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('"tensorflow"', "'tensorflow' is none of torch, jax, mlx, numpy"),
        ("dtype=['float32']", r"pytest.mark.backends takes no dtype"),
        ("'numpy', dtypes=['float99']", "dtype='float99' is no dtype of real or complex numbers"),
        ("'numpy', layouts=['diagonal']", "layout='diagonal' is none of 'contiguous'"),
        ("xfail={'caffe': 'old'}", "'caffe' is none of torch, jax, mlx, numpy"),
    ],
)
def test_marker_that_is_wrong_is_an_error(run, mark, message):
    text = run(f"import pytest\n@pytest.mark.backends({mark})\n{ONCE}")
    assert message in text
    assert "passed" not in text


def test_name_on_the_command_line_that_is_wrong_is_an_error(run):
    assert "ERROR: --backends: 'caffe' is none of torch, jax, mlx, numpy" in run(
        ONCE, "--backends", "torch,caffe"
    )


def test_a_test_that_does_not_use_it_does_not_notice(run):
    code = """
import os
import sys
import pytest

@pytest.fixture(params=["mine"])
def backend(request):
    return request.param

def test_own_fixture(backend):
    assert backend == "mine"

@pytest.mark.parametrize("other, backend", [(1, "one")])
def test_own_parameter(other, backend):
    assert backend == "one"

def test_nothing_is_imported():
    assert "bridge._testing.plugin" in sys.modules
    assert not {"torch", "jax", "mlx"} & {name.partition(".")[0] for name in sys.modules}
"""
    text = run(code, "-W", "error")
    assert outcomes(text) == {
        "test_own_fixture[mine]": "PASSED",
        "test_own_parameter[1-one]": "PASSED",
        "test_nothing_is_imported": "PASSED",
    }


def test_works_under_xdist_and_named_by_hand(run):
    pytest.importorskip("xdist")
    text = run(ONCE, "-n", "2", "--backends", ONE, "-p", "bridge._testing.plugin")
    assert outcomes(text) == {f"test_square[{ONE}]": "PASSED"}
