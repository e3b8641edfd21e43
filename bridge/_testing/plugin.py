"""The pytest plugin: the fixture `backend`, with its marker and its option on the command line.

pytest loads it wherever bridge is installed; a test without the fixture does not notice.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from bridge import _registry
from bridge._core.errors import MissingFrameworkError, OptionError
from bridge._testing import backend as backends
from bridge._testing.backend import Backend

_ALL = ("torch", "jax", "mlx")
_MARKER = (
    'backends(*names, dtypes=None, layouts=("contiguous",), xfail={}): which frameworks the '
    "fixture `backend` is, of torch, jax, mlx and numpy; the dtypes and layouts of its arrays; and "
    "why the test fails with some of the frameworks, strictly."
)
_DOUBLE = ("float64", "complex128")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--backends`."""
    parser.getgroup("bridge").addoption(
        "--backends",
        metavar="NAMES",
        help="Run tests with the fixture `backend` for these frameworks only, as in torch,mlx. One "
        "that is not installed is an error then.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker, and check the option."""
    config.addinivalue_line("markers", _MARKER)
    try:
        _check_names(_chosen(config) or ())
    except OptionError as error:
        raise pytest.UsageError(f"--backends: {error}") from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for each framework, dtype and layout that it asks for."""
    if "backend" not in metafunc.fixturenames or not _is_ours(metafunc):
        return
    names, dtypes, layouts, reasons = _read_markers(metafunc.definition)
    chosen = _chosen(metafunc.config)
    params = [
        pytest.param(
            (name, dtype, layout),
            id="-".join(word for word in (name, dtype, layout if len(layouts) > 1 else "") if word),
            marks=[pytest.mark.xfail(reason=reasons[name], strict=True)] if name in reasons else [],
        )
        for name, dtype, layout in itertools.product(names, dtypes, layouts)
        if chosen is None or name in chosen
    ]
    metafunc.parametrize("backend", params, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A framework: `bridge.testing.Backend`. The test runs once for each that is installed.

    `@pytest.mark.backends("torch", "jax")` chooses frameworks, `dtypes=["float32", "float64"]` and
    `layouts=["contiguous", "strided"]` run the test for each of these too, and
    `xfail={"mlx": "mlx#3047"}` says why it has to fail with one of them. For a dtype of 64 bits,
    JAX counts in 64 bits and MLX computes on the CPU while the test runs.
    """
    name, dtype, layout = request.param
    try:
        kit = backends.backend(name, dtype, layout)
    except MissingFrameworkError as error:
        if _chosen(request.config):
            pytest.fail(f"--backends asks for {name}: {error}", pytrace=False)
        pytest.skip(str(error))
    with kit.double_precision() if dtype in _DOUBLE else contextlib.nullcontext():
        if dtype is not None and name in _ALL and not _has_dtype(name, dtype):
            pytest.skip(f"{name} has no {dtype}")
        yield kit


def _has_dtype(name: str, dtype: str) -> bool:
    return _registry.target_arrays(name).supports_dtype(dtype)


def _chosen(config: pytest.Config) -> list[str] | None:
    """Return the names on the command line, if there are any."""
    option = config.getoption("--backends")
    return None if option is None else [name.strip() for name in option.split(",")]


def _is_ours(metafunc: pytest.Metafunc) -> bool:
    """Return False if somebody else's fixture or parameter of this name is meant."""
    for marker in metafunc.definition.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs["argnames"]
        if "backend" in (names.replace(" ", "").split(",") if isinstance(names, str) else names):
            return False
    # pytest does not say otherwise which of several fixtures of one name it takes.
    known: Mapping[str, Sequence[Any]] = getattr(metafunc, "_arg2fixturedefs", {})
    definitions = known.get("backend", ())
    return not definitions or definitions[-1].func.__module__ == __name__


def _read_markers(
    definition: pytest.Item,
) -> tuple[Sequence[str], Sequence[str | None], Sequence[str], dict[str, str]]:
    """Return frameworks, dtypes, layouts and reasons to fail, of the closest markers that say."""
    names: Sequence[str] = ()
    said: dict[str, Any] = {}
    for marker in definition.iter_markers("backends"):
        unknown = {*marker.kwargs} - {"dtypes", "layouts", "xfail"}
        if unknown:
            raise OptionError(f"pytest.mark.backends takes no {', '.join(sorted(unknown))}.")
        names = names or marker.args
        said = {**marker.kwargs, **said}
    reasons: dict[str, str] = said.get("xfail", {})
    names = names or _ALL
    _check_names([*names, *reasons])
    return names, said.get("dtypes") or (None,), said.get("layouts", backends.LAYOUTS[:1]), reasons


def _check_names(names: Sequence[str]) -> None:
    known = _registry.frameworks()
    for name in names:
        if name not in known:
            raise OptionError(f"{name!r} is none of {', '.join(known)}.")
