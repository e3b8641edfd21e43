"""Write all that is generated: `python -m generate` in docs/."""

import pathlib

from generate import capabilities, containers, dtypes, errors, interfaces, options, versions

DOCS = pathlib.Path(__file__).parent.parent
TABLES = {
    "capabilities": capabilities.table,
    "containers": containers.table,
    "conversions": dtypes.conversions,
    "dtypes": dtypes.calls,
    "errors": errors.page,
    "options": options.page,
    "versions": versions.table,
}


def write(path: pathlib.Path, text: str) -> None:
    """Write `text` unless it is there already: Sphinx reads again what is newer than its output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


for name, make in TABLES.items():
    write(DOCS / "generated" / f"{name}.md", make())
for name, text in interfaces.pages().items():
    write(DOCS / "reference" / "api" / f"{name}.md", text)
