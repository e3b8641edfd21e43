"""How Sphinx builds these pages: `nox -s docs`."""

import hashlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys

from sphinx.application import Sphinx

HERE = pathlib.Path(__file__).parent
BUILD = HERE / "_build"

project = "bridge"
author = "The gradbridge authors"
copyright = author
release = importlib.metadata.version("gradbridge")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "generate", "generated", "Thumbs.db"]
html_theme = "furo"
html_title = f"bridge {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"
default_role = "literal"  # single backticks in docstrings are code

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

# Names of other projects are links where their inventories can be fetched, else plain text.
INVENTORIES = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "jax": ("https://docs.jax.dev/en/latest", None),
    "mlx": ("https://ml-explore.github.io/mlx/build/html", None),
}
nitpick_ignore_regex = [(r"py:.*", r"bridge\._.*")]  # private modules have no pages
if os.environ.get("DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = INVENTORIES
else:
    # Without inventories only our own names can be checked.
    nitpick_ignore_regex.append((r"py:.*", r"(?!bridge\.).*"))


def _digest() -> str:
    """Return a text that changes with the code and the versions that pages are executed with."""
    digest = hashlib.sha256(release.encode())
    for name in ("torch", "jax", "mlx", "numpy"):
        digest.update(importlib.metadata.version(name).encode())
    for path in sorted((HERE.parent / "bridge").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


nb_execution_mode = "cache"
# The cache of pages knows their text alone: a change of the package has to be a new cache.
nb_execution_cache_path = str(BUILD / "executed" / _digest())
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_output_stderr = "warn"

# Settings of the processes that execute pages.
IPYTHON = BUILD / "ipython"
profile = IPYTHON / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
# An error is one line, as in the text; tracebacks differ from machine to machine.
(profile / "ipython_kernel_config.py").write_text('c.InteractiveShell.xmode = "Minimal"\n')
os.environ |= {
    "IPYTHONDIR": str(IPYTHON),
    "MATPLOTLIBRC": str(HERE / "matplotlibrc"),
    "JAX_PLATFORMS": "cpu",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def _generate(app: Sphinx) -> None:
    """Write the pages and tables that follow from running the package."""
    subprocess.run([sys.executable, "-m", "generate"], cwd=HERE, check=True)


def setup(app: Sphinx) -> None:
    """Connect what comes before reading."""
    app.connect("builder-inited", _generate)
