"""Arguments as text, in exported programs: it means the same everywhere, and runs nothing."""

import base64
import collections
import dataclasses
import enum
import importlib
import json
import pickle

import pytest

from bridge import ArgumentError
from bridge._core import serialization
from tests.processes import fresh_process
from tests.versions import NEWER_DYNAMO


class Way(enum.Enum):
    UP = 1
    DOWN = 1.5


class Pair(collections.namedtuple("Pair", "first second")):
    """With a constructor that takes other arguments than its parts."""

    __slots__ = ()

    def __new__(cls, both):
        return super().__new__(cls, both, both)


@dataclasses.dataclass
class Setting:
    way: Way
    sizes: tuple

    def __post_init__(self):
        if not isinstance(self.way, Way):
            raise TypeError("not a way")


TREE = {
    "numbers": [1, True, 0.1, -0.0, float("inf"), 2 - 3j, None, 10**30],
    3: ("text | with # marks", Way.DOWN, (), {}),
    None: collections.OrderedDict(b=Pair("x"), a=Setting(Way.UP, (1, 2.5))),
}


def told(x):
    """What tells apart what Python calls equal."""
    if isinstance(x, dict):
        return type(x).__name__, [(told(k), told(v)) for k, v in x.items()]
    if isinstance(x, (list, tuple)):
        return type(x).__name__, [told(v) for v in x]
    if isinstance(x, Setting):
        return "Setting", told(vars(x))
    return type(x).__name__, repr(x)


def decoded_elsewhere(text):
    return json.loads(json.dumps(told(serialization.decode(text))))


def test_a_tree_is_the_same_in_another_process():
    text = serialization.encode(TREE)
    assert told(serialization.decode(text)) == told(TREE)
    assert fresh_process(decoded_elsewhere, text) == json.loads(json.dumps(told(TREE)))


class Local:
    pass


@pytest.mark.parametrize("thing", [Local(), Local, len, b"bytes", {1}, lambda: 0, object()])
def test_what_has_no_text_is_refused(thing):
    with pytest.raises(ArgumentError, match="has no text to find it again by"):
        serialization.encode([thing])


@pytest.mark.parametrize("kind", ["enum", "named", "dataclass"])
@pytest.mark.parametrize("place", ["os:system", "subprocess:Popen", "pathlib:Path"])
def test_a_text_makes_nothing_but_data(kind, place):
    about = {"enum": [place, "x"], "named": [place, []], "dataclass": [place, [], []]}[kind]
    with pytest.raises(ArgumentError, match=f"{place} is not the class that it was"):
        serialization.decode(json.dumps({kind: about}))


class Running:
    """What runs code when a pickle of it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@NEWER_DYNAMO
def test_a_recorded_call_reads_no_pickles(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    bridge = importlib.import_module("bridge")
    f = bridge.jax2torch(lambda x, how: x * how.sizes[1] if how.way is Way.UP else x)
    texts = []

    def backend(graph, example):
        texts.extend(
            (str(node.args[0]), str(node.args[1]))
            for node in graph.graph.nodes
            if "bridge" in str(node.target)
        )
        return graph

    aot = importlib.import_module("torch._dynamo.backends.common").aot_autograd
    step = torch.compile(
        lambda x: f(x, Setting(Way.UP, (1, 2.5))), fullgraph=True, backend=aot(fw_compiler=backend)
    )
    x = torch.ones(3)
    torch.testing.assert_close(step(x), 2.5 * x)
    ((name, text),) = texts
    arguments, _, rest = text.partition("|")
    json.loads(arguments)
    torch.testing.assert_close(torch.ops.bridge.call(name, text, [x])[0], 2.5 * x)
    path = tmp_path / "written"
    pickled = base64.b64encode(pickle.dumps(Running(str(path)))).decode()
    with pytest.raises(ArgumentError, match="pickles can run code"):
        torch.ops.bridge.call(name, f"{pickled}|{rest}", [x])
    assert not path.exists()
