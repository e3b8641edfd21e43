"""Lists the names this package uses that no framework promises, and says which are gone."""

import ast
import importlib
import importlib.metadata
import pathlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterator

PACKAGE = pathlib.Path(__file__).parents[1] / "bridge"
FRAMEWORKS = ("torch", "jax", "jaxlib", "mlx", "numpy", "optree", "ml_dtypes")
DOTTED = re.compile(rf"({'|'.join(FRAMEWORKS)})(\.\w+)+")
UNPROMISED = re.compile(r"\._(?!_)|\.(experimental|extend|interpreters)\.")


class Names(ast.NodeVisitor):
    """The names of frameworks in a module, each with its line and whether it has a fallback."""

    def __init__(self) -> None:
        self.uses: list[tuple[str, int, bool]] = []
        self.aliases: dict[str, str] = {}
        self._guarded = False

    def _use(self, name: str, node: ast.expr | ast.stmt, *, optional: bool = False) -> None:
        if name.partition(".")[0] in FRAMEWORKS:
            self.uses.append((name, node.lineno, optional or self._guarded))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.partition(".")[0]
            self.aliases[alias.asname or root] = alias.name if alias.asname else root
            self._use(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            self.aliases[alias.asname or alias.name] = name
            self._use(name, node)

    def visit_Try(self, node: ast.Try) -> None:
        handled = {
            name.id for x in node.handlers for name in ast.walk(x) if isinstance(name, ast.Name)
        }
        before, self._guarded = self._guarded, bool({"ImportError", "AttributeError"} & handled)
        for statement in node.body:
            self.visit(statement)
        self._guarded = before
        for statement in [*node.handlers, *node.orelse, *node.finalbody]:
            self.visit(statement)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self._dotted(node)
        if name:
            self._use(name, node)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                ast.Name("getattr" | "hasattr"), [place, ast.Constant(str(name)), *default]
            ):
                owner = self._dotted(place)
                if owner:
                    optional = bool(default) or node.func.id == "hasattr"
                    self._use(f"{owner}.{name}", node, optional=optional)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A module that is looked up by its name."""
        if isinstance(node.value, str) and DOTTED.fullmatch(node.value):
            self._use(node.value, node, optional=True)

    def _dotted(self, node: ast.expr) -> str | None:
        match node:
            case ast.Name(name):
                return self.aliases.get(name)
            case ast.Attribute(value, name):
                owner = self._dotted(value)
                return owner and f"{owner}.{name}"
        return None


def unpromised(path: pathlib.Path) -> Iterator[tuple[str, int, bool]]:
    """The unpromised names in a module; in a room for them, all but those like `torch.empty`."""
    names = Names()
    names.visit(ast.parse(path.read_text()))
    for name, line, optional in names.uses:
        if UNPROMISED.search(name) or ("upstream" in path.parts and name.count(".") > 1):
            yield name, line, optional


def exists(name: str) -> bool:
    """Whether a dotted name leads to something."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        for part in parts[count:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def main() -> int:
    """Print every name, those that are gone at the end; fails if one has no fallback."""
    uses = defaultdict[str, list[tuple[str, bool]]](list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, line, optional in unpromised(path):
            uses[name].append((f"{path.relative_to(PACKAGE.parent)}:{line}", optional))
    installed = [f"{x} {importlib.metadata.version(x)}" for x in ("torch", "jax", "mlx")]
    print(f"{len(uses)} names that are not promised, with {', '.join(installed)}")
    missing = 0
    for name, places in sorted(uses.items(), key=lambda item: (not exists(item[0]), item[0])):
        state = "there"
        if not exists(name):
            fallback = all(optional for _, optional in places)
            state = "gone, with a fallback" if fallback else "GONE"
            missing += not fallback
        print(f"{state:>6}  {name}  ({', '.join(dict.fromkeys(place for place, _ in places))})")
    print(f"{missing} gone without a fallback")
    return min(missing, 1)


if __name__ == "__main__":
    sys.exit(main())
