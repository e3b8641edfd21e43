"""What must hold before a change is merged: `nox`. One of them alone: `nox -s types`."""

import os
import pathlib

import nox

nox.needs_version = ">=2025.2.9"
# Only pip chooses a CPU build of torch from a local folder of wheels; uv would fetch CUDA.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_external_run = True
# A session whose Python is missing is skipped, with a message, in CI too.
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["style", "rooms", "types", "tests", "subsets", "ahead"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
CONSTRAINTS = ".ci/constraints.txt"
SUBSETS = ["torch,jax", "torch,mlx", "jax,mlx", "torch"]
# With two frameworks, what may depend on a third: the rest is that of `nox -s tests`.
SHARED = [
    *("arguments", "arguments_methods", "arguments_numbers", "arguments_static"),
    *("dtypes", "dtypes_of_64_bits", "dtypes_of_integers", "dtypes_that_torch_lacks"),
    *("docstrings", "import", "random", "readme"),
    *("transfer", "transfer_layouts", "transfer_trees"),
    *("trees", "trees_autograd", "trees_memory", "trees_of_libraries"),
]

PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
FRAMEWORKS = ["torch", "jax", "mlx"]
# For environments that CI's versions are not for, also where CI itself asks for them.
UNPINNED = {"PIP_CONSTRAINT": None, "PIP_BUILD_CONSTRAINT": None}
OLDEST_PYTHON = PROJECT["requires-python"].removeprefix(">=")
NEWER_PYTHONS = ["3.12", "3.13"]

# The command `python3.12` of pyenv works where that version is active: nox may use the others too.
PYENV = pathlib.Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
for python in [OLDEST_PYTHON, *NEWER_PYTHONS]:
    for folder in PYENV.glob(f"versions/{python}.*/bin"):
        os.environ["PATH"] += os.pathsep + str(folder)


def _install(session: nox.Session, *packages: str, groups: tuple[str, ...] = ()) -> None:
    """Install `packages` and dependency groups at the versions that CI uses."""
    session.install("-c", CONSTRAINTS, *packages, *_groups(*groups))


def _install_newest(session: nox.Session, *packages: str) -> None:
    """Install `packages` and what they need at the newest versions there are."""
    newest = ("--upgrade", "--upgrade-strategy", "eager")
    session.install(*newest, *packages, env=UNPINNED)


def _groups(*names: str) -> tuple[str, ...]:
    """What these dependency groups of pyproject.toml ask for."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def _pytest(session: nox.Session, frameworks: str, *chosen: str) -> None:
    """Run the tests on the CPU; they check that `frameworks`, and no others, are installed."""
    env = {"JAX_PLATFORMS": "cpu", "GRADBRIDGE_TEST_FRAMEWORKS": frameworks}
    # On two cores two workers need half the time of one, and no more CPU; `-- -n 0` is without.
    session.run("python", "-m", "pytest", "-n", "2", *chosen, *session.posargs, env=env)


@nox.session
def style(session: nox.Session) -> None:
    """Format and lint; `nox -s style -- --fix` repairs."""
    _install(session, groups=("style",))
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]), ".")
    session.run("ruff", "check", *session.posargs, ".")


@nox.session
def rooms(session: nox.Session) -> None:
    """No module imports one above it, or a framework whose name it does not bear."""
    _install(session, groups=("rooms",))
    session.run("lint-imports", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Type-check the package, and what README.md, the examples and an editor make of it."""
    _install(session, "-e", ".[all,demo,testing]", groups=("types",))
    session.run("pyright", *session.posargs)
    folder = session.create_tmp()
    session.run("python", ".ci/users_code.py", folder)
    session.run("pyright", "-p", folder)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests with everything installed; `nox -s tests -- -k complex` runs a part."""
    _install(session, "-e", ".[all,demo]", groups=("tests", "models"))
    _pytest(session, "torch,jax,mlx")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run thousands of random programs in every direction, and the long versions of tests."""
    _install(session, "-e", ".[all]", groups=("tests",))
    # Of the slow tests, which may take minutes, a worker gets one at a time.
    chosen = ["-n", "2", "--maxschedchunk", "1", "-m", "fuzz or slow"]
    session.run("python", "-m", "pytest", *chosen, *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def suites(session: nox.Session) -> None:
    """Try every operator of the frameworks' own records, and write the table of what is refused."""
    _install(session, "-e", ".[all]", groups=("tests", "suites"))
    verdicts = pathlib.Path(session.create_tmp(), "verdicts").resolve()
    verdicts.unlink(missing_ok=True)
    env = {"JAX_PLATFORMS": "cpu", "GRADBRIDGE_SUITES": str(verdicts)}
    chosen = ["-n", "2", "-m", "suites", "tests/suites"]
    session.run("python", "-m", "pytest", *chosen, *session.posargs, env=env)
    session.run("python", "-m", "tests.suites.reporting", str(verdicts), "docs/operators.md")


@nox.session
def quantum(session: nox.Session) -> None:
    """Run circuits of each simulator through the bridge, against formulas by hand."""
    _install(session, "-e", ".[torch,jax]", groups=("tests", "quantum"))
    env = {"JAX_PLATFORMS": "cpu"}
    chosen = ["-n", "2", "-m", "quantum", "tests/quantum"]
    session.run("python", "-m", "pytest", *chosen, *session.posargs, env=env)
    examples = ["tests/test_examples.py", "-k", "estimator or pulses"]
    session.run("python", "-m", "pytest", *examples, *session.posargs, env=env)


@nox.session
@nox.parametrize("frameworks", SUBSETS, ids=SUBSETS)
def subsets(session: nox.Session, frameworks: str) -> None:
    """Run the tests with these frameworks installed, and without the others."""
    _install(session, "-e", f".[{frameworks}]", groups=("tests",))
    chosen = [f"tests/test_{name}.py" for name in SHARED] if "," in frameworks else []
    _pytest(session, frameworks, *chosen)


@nox.session(python=NEWER_PYTHONS[0])
def ahead(session: nox.Session) -> None:
    """Run a part of the tests on a newer Python, between the newest JAX and MLX of the day."""
    _install(session, "-e", ".[jax,mlx]", groups=("tests",))
    session.install("--upgrade", *EXTRAS["jax"], *EXTRAS["mlx"], env=UNPINNED)
    _pytest(session, "jax,mlx", *(f"tests/test_{name}.py" for name in [*SHARED, "gradients"]))


@nox.session(python=NEWER_PYTHONS)
def newest(session: nox.Session) -> None:
    """Run the tests with the newest of everything, on newer Pythons."""
    _install_newest(session, "-e", ".[all]", *_groups("tests", "models"))
    _pytest(session, "torch,jax,mlx")


@nox.session(python=OLDEST_PYTHON)
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that pyproject.toml allows, on the oldest Python."""
    extras = [requirement for name in FRAMEWORKS for requirement in EXTRAS[name]]
    floors = [requirement.replace(">=", "==") for requirement in PROJECT["dependencies"] + extras]
    session.install("-e", ".[all]", *floors, *_groups("tests"), env=UNPINNED)
    _pytest(session, "torch,jax,mlx")


@nox.session(python=NEWER_PYTHONS[-1])
def canary(session: nox.Session) -> None:
    """Say which names that no framework promises are gone from its newest pre-releases."""
    extras = [requirement for name in FRAMEWORKS for requirement in EXTRAS[name]]
    _install_newest(session, "--pre", *PROJECT["dependencies"], *extras)
    session.run("python", ".ci/canary.py", *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def demo(session: nox.Session) -> None:
    """Train digits in many ways, a transformer, a solver, and circuits; test an op three times."""
    _install(session, "-e", ".[demo,testing]")
    session.run("python", "examples/digits.py", *session.posargs, env={"JAX_PLATFORMS": "cpu"})
    session.run("python", "examples/digits_in_jax.py", env={"JAX_PLATFORMS": "cpu"})
    session.run("python", "examples/digits_with_mlx.py")
    modules = ("flax_in_torch", "torch_in_nnx", "hybrid_equinox", "transformers_in_jax")
    for name in (*modules, "processes", "solver", "shots", "adjoint"):
        session.run("python", f"examples/{name}.py", env={"JAX_PLATFORMS": "cpu"})
    session.chdir("examples/op_on_three_backends")
    session.run("python", "-m", "pytest", env={"JAX_PLATFORMS": "cpu"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the pages of docs/ and execute what they show; `nox -s docs -- -E` reads all again."""
    _install(session, "-e", ".[all,testing]", groups=("docs",))
    strict = ("-W", "-n", "--keep-going")
    session.run("sphinx-build", *strict, *session.posargs, "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what a call across costs; `nox -s bench -- --no-peers` without other libraries."""
    groups = ("bench",) if "--no-peers" in session.posargs else ("bench", "peers")
    _install(session, "-e", ".[all]", groups=groups)
    session.run("python", "-m", "benchmarks", *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
def figures(session: nox.Session) -> None:
    """Draw the figures of benchmarks/ again, from the results of the last run."""
    _install(session, "matplotlib")
    session.run("python", "benchmarks/_figure.py")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Run the tests that need a GPU, with the torch and JAX that are installed already."""
    session.run("python", "-m", "pytest", "-m", "gpu", *session.posargs)
