"""The code of pages that say what holds of each kind of function runs without the builder, too."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.processes import use_loopback

DOCS = Path(__file__).parent.parent / "docs"
RULES = (DOCS / "rules.md").read_text(encoding="utf-8")
DETAILS = sorted((DOCS / "reference" / "details").glob("*.md"))


def test_the_code_of_rules_runs():
    pytest.importorskip("torch")
    blocks = re.findall(r"^```python\n(.*?)^```$", RULES, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/rules.md", "exec"), namespace)
    assert namespace["choose"].calls == 2  # forward and backward, one call each


@pytest.mark.parametrize("page", DETAILS, ids=lambda page: page.stem)
def test_the_code_of_details_runs(page):
    for framework in ("torch", "jax", "mlx.core"):
        pytest.importorskip(framework)
    use_loopback()
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    for match in re.finditer(r"^```\{code-cell\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        libraries = re.findall(r"^(?:import|from) (flax|equinox|optax)\b", match[1], re.MULTILINE)
        if not all(map(importlib.util.find_spec, libraries)):
            pytest.skip(f"without {' and '.join(libraries)}")
        # The empty lines let a traceback name the line of the page.
        code = "\n" * text.count("\n", 0, match.start(1)) + match[1]
        exec(compile(code, page, "exec"), namespace)
