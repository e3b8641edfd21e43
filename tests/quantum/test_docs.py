"""The examples of docs/quantum.md, one section after the other."""

import pathlib
import re

import pytest

pytestmark = pytest.mark.quantum
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "quantum.md"


def test_examples_run():
    text = DOCS.read_text(encoding="utf-8")
    namespace = {}
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        # The empty lines let a traceback name the line of the document.
        code = "\n" * text.count("\n", 0, match.start(1)) + match[1]
        exec(compile(code, DOCS, "exec"), namespace)
    assert "coincidence" in namespace
