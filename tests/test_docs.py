"""The code of docs/rules.md runs."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()


def test_the_code_runs():
    pytest.importorskip("torch")
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/rules.md", "exec"), namespace)
    assert namespace["choose"].calls == 2  # forward and backward, one call each
