"""`nox` tests with each set of frameworks; `nox -s "versions(torch='2.11')"` with one version."""

import os

import nox

nox.options.reuse_venv = "yes"

BRIDGE = os.environ.get("GRADBRIDGE", "gradbridge")  # or the path of a checkout
SETS = ["torch", "torch,jax", "torch,mlx", "jax,mlx", "torch,jax,mlx"]


def run(session: nox.Session, frameworks: str, *versions: str) -> None:
    """Install frameworks and run the tests; a framework that is missing is an error."""
    session.install(f"{BRIDGE}[testing,{frameworks}]", *versions)
    session.run("pytest", "--backends", frameworks, *session.posargs, env={"JAX_PLATFORMS": "cpu"})


@nox.session
@nox.parametrize("frameworks", SETS, ids=SETS)
def tests(session: nox.Session, frameworks: str) -> None:
    """Run the tests with the newest versions of a set of frameworks."""
    run(session, frameworks)


@nox.session
@nox.parametrize("torch", ["2.11", "2.13"])
def versions(session: nox.Session, torch: str) -> None:
    """Run the tests with versions of PyTorch, beside JAX."""
    run(session, "torch,jax", f"torch=={torch}.*")
