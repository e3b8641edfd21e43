"""A page for each public name, by autodoc."""

import inspect
import types

import bridge
from bridge import rules, testing

TEXT = """# `{name}`

```{{eval-rst}}
.. auto{kind}:: {module}.{name}
{members}```
"""


MEMBERS = {
    # It is made by the wrappers: what else it has is for other modules of the package.
    "BridgedFunction": "   :members: vmap, explain\n",
    "Functional": "   :members: to_nnx, to_equinox\n",
    "Backend": "   :members: xp, array, numpy, grad, vjp, jvp, vmap, compile, double_precision\n",
}
DEPRECATED = ("torch_operator",)


def _public(module: types.ModuleType) -> dict[str, str]:
    """The pages of what `module` defines and a user calls."""
    pages = {}
    for name in dir(module):
        thing = getattr(module, name)
        if (
            name.startswith("_")
            or name in DEPRECATED
            or getattr(thing, "__module__", "") != module.__name__
        ):
            continue
        if isinstance(thing, type) and issubclass(thing, Exception):
            continue  # these share a page
        kind = "class" if inspect.isclass(thing) else "function"
        members = MEMBERS.get(name, "") if kind == "class" else ""
        pages[name] = TEXT.format(name=name, kind=kind, module=module.__name__, members=members)
    return pages


def pages() -> dict[str, str]:
    """File names of pages, and their texts."""
    layer = {
        "FunctionLayer": TEXT.format(
            name="FunctionLayer", kind="class", module="bridge.nn", members=""
        )
    }
    return _public(bridge) | _public(rules) | _public(testing) | layer
