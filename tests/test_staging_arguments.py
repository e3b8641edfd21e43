"""What goes into bridged functions, and comes out of them, in code that torch compiles."""

import collections
import dataclasses
import enum
import functools
import importlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

X = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]])


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    counters().clear()


def counters():
    return importlib.import_module("torch._dynamo.utils").counters


def graphs():
    return counters()["stats"]["unique_graphs"]


def compiled(fn, **options):
    return torch.compile(fn, fullgraph=True, backend="aot_eager", **options)


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
class Result:
    x: object

    def __post_init__(self):
        self.other = self.x


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenResult:
    x: object


@dataclasses.dataclass
class Derived:
    x: object
    how: str = dataclasses.field(init=False)

    def __post_init__(self):
        self.how = "cos"
        self.scale = 3.0


class Registered(dict):
    """A container that torch knows, as the outputs of many libraries are."""


torch.utils._pytree.register_pytree_node(
    Registered,
    lambda node: (list(node.values()), list(node)),
    lambda children, names: Registered(zip(names, children, strict=True)),
)
Pair = collections.namedtuple("Pair", "first second")


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
    "object": (Plain("sin"), Plain("cos")),
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


def test_objects_made_before_are_those_of_eager_code(into_torch):
    source, wrap = into_torch
    seen = []
    f = wrap(lambda x, thing: (seen.append(thing), named(source.xp, x, thing))[1])
    thing = Plain("cos")
    torch.testing.assert_close(compiled(lambda x: f(x, thing))(X), X.cos())
    assert seen == [thing]


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


def test_a_changed_field_is_seen(into_torch):
    source, wrap = into_torch
    f = wrap(lambda node: source.xp.sin(node.x))

    def change(x):
        node = Slots(x)
        node.x = node.x * 2
        return f(node)

    torch.testing.assert_close(compiled(change)(X), (X * 2).sin())


# Containers of results, used in compiled code and handed out of it


def sine_and_sum(xp, x):
    return xp.sin(x), x.sum()


RESULTS = {
    "namedtuple": lambda xp, x: Pair(*sine_and_sum(xp, x)),
    "frozen": lambda xp, x: FrozenResult(sine_and_sum(xp, x)),
    "dataclass": lambda xp, x: [Result(xp.sin(x)), Result(x.sum())],
    "registered": lambda xp, x: Registered(zip("ab", sine_and_sum(xp, x), strict=True)),
    "ordered": lambda xp, x: collections.OrderedDict(zip("ba", sine_and_sum(xp, x), strict=True)),
    "default": lambda xp, x: collections.defaultdict(list, {"z": sine_and_sum(xp, x)}),
    "deque": lambda xp, x: collections.deque(sine_and_sum(xp, x)),
    "nothing": lambda xp, x: (),
    "None": lambda xp, x: None,
    "None in tree": lambda xp, x: {"a": [None, sine_and_sum(xp, x)], "b": (None, [])},
}


def same(found, expected):
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(found):
        return same(list(vars_of(found)), list(vars_of(expected)))
    if isinstance(found, torch.Tensor):
        return torch.testing.assert_close(found, expected)
    if isinstance(found, dict):
        return same(list(found.items()), list(expected.items()))
    if isinstance(found, (tuple, list, collections.deque)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        return None
    assert found == expected
    return None


def vars_of(node):
    names = [field.name for field in dataclasses.fields(node)]
    return [getattr(node, name) for name in names] + [getattr(node, "other", None)]


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results_that_leave_compiled_code(into_torch, function):
    source, wrap = into_torch
    f = wrap(functools.partial(function, source.xp))
    same(compiled(lambda x: f(x))(X), function(torch, X))


def test_results_of_equinox_in_and_out(into_torch):
    source, wrap = into_torch
    if source.name != "jax":
        pytest.skip("Equinox is a library of JAX")
    equinox, jax = pytest.importorskip("equinox"), importlib.import_module("jax")
    linear = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    weights = importlib.import_module("bridge").to_torch(linear)
    f = wrap(lambda m, x: equinox.tree_at(lambda m: m.bias, m, m(x)))
    expected = X[0] @ weights.weight.T + weights.bias
    found = compiled(lambda m, x: f(m, x))(weights, X[0])
    assert type(found) is equinox.nn.Linear
    assert (found.in_features, found.out_features, found.use_bias) == (3, 2, True)
    torch.testing.assert_close(found.bias, expected)


# Errors


class SentinelError(ValueError):
    pass


def failing(x):
    raise SentinelError(f"not for {x.shape}")


def test_an_error_names_its_type_text_and_the_call(into_torch):
    _, wrap = into_torch
    f = wrap(failing)
    with pytest.raises(RuntimeError, match=r"SentinelError: not for \(2, 3\)") as caught:
        compiled(lambda x: f(x) * 2)(X)
    assert "lambda x: f(x) * 2" in str(caught.value)


def test_without_fullgraph_an_error_is_that_of_eager_code(into_torch):
    _, wrap = into_torch
    f = wrap(failing)
    with pytest.raises(SentinelError, match=r"^not for \(2, 3\)"):
        torch.compile(lambda x: f(x) * 2, backend="aot_eager")(X)


def test_without_fullgraph_transformations_are_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    step = torch.compile(lambda x: torch.func.grad(f)(x) * 2, backend="aot_eager")
    torch.testing.assert_close(step(X), X.cos() * 2)


# Dynamo asks every tensor that enters a graph for its `.grad`: torch 2.13 warns of itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_without_fullgraph_a_step_with_its_backward_is_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) if x.sum() > 0 else -x, jit=False)

    def step(x):
        y = f(x * 2)
        y.sum().backward()
        return y * 2

    x = X.clone().requires_grad_()
    torch.testing.assert_close(torch.compile(step, backend="aot_eager")(x), (X * 2).sin() * 2)
    torch.testing.assert_close(x.grad, 2 * (X * 2).cos())


def test_without_fullgraph_a_function_that_looks_at_values_is_right(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) if x.sum() > 0 else -x, jit=False)
    step = torch.compile(lambda x: f(x) * 2, backend="aot_eager")
    torch.testing.assert_close(step(X), X.sin() * 2)
    torch.testing.assert_close(step(-X), X * 2)


@pytest.mark.parametrize("value", [np.float32(2), np.ones(3, "float32")], ids=["scalar", "array"])
def test_numpy_is_refused(into_torch, value):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * y)
    with pytest.raises(RuntimeError, match="a NumPy scalar as a number"):
        compiled(lambda x: f(x, value))(X)


def test_the_function_is_usable_after_an_error(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).reshape(3, -1))
    step = compiled(lambda x: f(x))
    with pytest.raises(RuntimeError, match="reshape"):
        step(X[:1, :2])
    torch.testing.assert_close(step(X), X.sin().reshape(3, 2))
    torch.testing.assert_close(f(X), X.sin().reshape(3, 2))


class Missing:
    """Told from others by its identity."""


SENTINEL = Missing()


def test_an_object_is_itself_in_compiled_code(into_torch):
    """A copy of it, made from text, would not be `is` what it was."""
    source, wrap = into_torch
    f = wrap(lambda x, how: source.xp.sin(x) if how is SENTINEL else source.xp.cos(x))
    torch.testing.assert_close(compiled(lambda x: f(x, SENTINEL))(X), X.sin())


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
