"""Static values and objects that bridged functions take in code that torch compiles."""

import dataclasses
import enum
import functools
import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.compiling import X, compiled, graphs  # noqa: E402
from tests.versions import NEWER_DYNAMO  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class Way(enum.Enum):
    SIN = "sin"
    COS = "cos"


class Plain:
    """An object without fields that anybody could know of."""

    def __init__(self, how):
        self.how = how


class WithDefault:
    how = "sin"

    def __init__(self, how):
        self.how = how


class Slotted:
    __slots__ = ("how",)

    def __init__(self, how):
        self.how = how


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: object
    how: str = "sin"


@dataclasses.dataclass(slots=True)
class Slots:
    x: object
    how: str = "sin"


@dataclasses.dataclass
class Derived:
    x: object
    how: str = dataclasses.field(init=False)

    def __post_init__(self):
        self.how = "cos"
        self.scale = 3.0


# Static arguments: the second call is told from the first.

STATIC = {
    "text": ("sin", "cos"),
    "tuple": (("sin", 1), ("cos", 1)),
    "nested tuple": ((("sin",), None), (("cos",), None)),
    "frozenset": (frozenset(["sin"]), frozenset(["cos"])),
    "enum": (Way.SIN, Way.COS),
    "function": (torch.sin, torch.cos),
    "lambda": (lambda: "sin", lambda: "cos"),
    "partial": (functools.partial(str, "sin"), functools.partial(str, "cos")),
    "class": (int, float),
    "dtype": (torch.float32, torch.float64),
    "numpy dtype": (np.float32, np.float64),
    "bool and number": (True, 1),
    "numbers": (0.5, -0.5),
    "None": (None, "cos"),
    "object": pytest.param((Plain("sin"), Plain("cos")), marks=NEWER_DYNAMO),
}


@pytest.mark.parametrize("values", STATIC.values(), ids=STATIC)
def test_each_static_value_is_a_graph_of_its_own(into_torch, values):
    source, wrap = into_torch

    @functools.partial(wrap, static_argnames="how")
    def f(x, how):
        first = how is values[0] or (type(how), repr(how)) == (type(values[0]), repr(values[0]))
        return source.xp.sin(x) if first else source.xp.cos(x)

    step = compiled(lambda x, how: f(x, how=how))
    for _ in range(2):
        torch.testing.assert_close(step(X, values[0]), X.sin())
        torch.testing.assert_close(step(X, values[1]), X.cos())
    assert graphs() == 2


def test_a_global_that_is_set_anew_is_noticed(into_torch):
    source, wrap = into_torch
    place = {"f": wrap(lambda x: source.xp.sin(x)), "how": frozenset([1])}
    exec("def call(x): return f(x)", place)
    step = compiled(place["call"])
    torch.testing.assert_close(step(X), X.sin())
    place["f"] = wrap(lambda x: source.xp.cos(x))
    torch.testing.assert_close(step(X), X.cos())


def test_compiled_calls_keep_nothing_more(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, how: source.xp.sin(x), static_argnames="how")
    step = compiled(lambda x: f(x, frozenset([1])))
    step(X)
    kept = len(f.graph_objects)
    for _ in range(20):
        step(X)
    assert len(f.graph_objects) == kept


# Objects that compiled code makes or changes


def named(xp, x, thing):
    return getattr(xp, thing.how)(x)


MADE = {"plain": Plain, "with a default": WithDefault, "slotted": Slotted}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_objects_that_compiled_code_makes_are_right_or_refused(into_torch, make):
    """The compiler alone knows their attributes: from outside, the default would be seen."""
    source, wrap = into_torch
    f = wrap(functools.partial(named, source.xp))
    torch.testing.assert_close(f(X, make("cos")), X.cos())
    with pytest.raises(RuntimeError, match=r"attributes that compiled code has set|constant"):
        compiled(lambda x: f(x, make("cos")))(X)


def test_objects_that_compiled_code_changes_are_right_or_refused(into_torch):
    source, wrap = into_torch
    f = wrap(functools.partial(named, source.xp))
    thing = Plain("sin")

    def change(x):
        thing.how = "cos"
        return f(x, thing)

    with pytest.raises(RuntimeError, match=r"attributes that compiled code has set|constant"):
        compiled(change)(X)


@NEWER_DYNAMO
def test_objects_made_before_are_those_of_eager_code(into_torch):
    source, wrap = into_torch
    seen = []
    f = wrap(lambda x, thing: (seen.append(thing), named(source.xp, x, thing))[1])
    thing = Plain("cos")
    torch.testing.assert_close(compiled(lambda x: f(x, thing))(X), X.cos())
    assert seen == [thing]


@NEWER_DYNAMO
@pytest.mark.parametrize("kind", [Frozen, Slots, Derived], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("where", ["made before", "made in compiled code"])
def test_dataclasses(into_torch, kind, where):
    source, wrap = into_torch
    f = wrap(lambda node: named(source.xp, node.x, node) * getattr(node, "scale", 1.0))
    if where == "made before":
        call = lambda node: f(node)
        found = compiled(call)(kind(X))
    else:
        found = compiled(lambda x: f(kind(x)))(X)
    torch.testing.assert_close(found, f(kind(X)))
    torch.testing.assert_close(found, X.cos() * 3 if kind is Derived else X.sin())


@NEWER_DYNAMO
def test_a_changed_field_is_seen(into_torch):
    source, wrap = into_torch
    f = wrap(lambda node: source.xp.sin(node.x))

    def change(x):
        node = Slots(x)
        node.x = node.x * 2
        return f(node)

    torch.testing.assert_close(compiled(change)(X), (X * 2).sin())


class Missing:
    """Told from others by its identity."""


SENTINEL = Missing()


@NEWER_DYNAMO
def test_an_object_is_itself_in_compiled_code(into_torch):
    """A copy of it, made from text, would not be `is` what it was."""
    source, wrap = into_torch
    f = wrap(lambda x, how: source.xp.sin(x) if how is SENTINEL else source.xp.cos(x))
    torch.testing.assert_close(compiled(lambda x: f(x, SENTINEL))(X), X.sin())


@NEWER_DYNAMO
def test_an_object_of_another_process_is_refused(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, how: source.xp.sin(x) if how is SENTINEL else source.xp.cos(x))
    texts = []

    def backend(graph, example):
        texts.extend(
            str(node.args[1]) for node in graph.graph.nodes if "bridge" in str(node.target)
        )
        return graph

    aot = importlib.import_module("torch._dynamo.backends.common").aot_autograd
    torch.compile(lambda x: f(x, SENTINEL), fullgraph=True, backend=aot(fw_compiler=backend))(X)
    (text,) = [text for text in texts if text.startswith("#")]
    name = next(name for name in staged_functions() if name.startswith("<lambda>"))
    with pytest.raises(TypeError, match="an object of another process"):
        torch.ops.bridge.call(name, "#0" + text[1:], [X])


def staged_functions():
    return importlib.import_module("bridge._targets.torch.staging")._anonymous
