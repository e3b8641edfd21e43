"""Functions that are wrapped again and again, as in a loop, each time to be compiled anew."""

import functools
import gc
import warnings
import weakref

import numpy as np
import pytest

import bridge
from bridge._calls import rewrapping
from tests.kits import kit

X = np.array([0.5, 2.0], "float32")
MANY = 4


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(rewrapping, "_MOST", MANY - 1)


def line_of(warning):
    with open(warning.filename) as source:
        return source.readlines()[warning.lineno - 1]


def caught(run):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run()
    return [warning for warning in found if "outside of the loop" in str(warning.message)]


def test_repeats_in_a_loop_warn_once_at_the_line_of_the_user(kits):
    source, target = kits
    x, wrap = target.array(X), getattr(bridge, f"{source.name}2{target.name}")

    def loop():
        for step in range(2 * MANY):
            scaled = wrap(lambda x, step=step: source.xp.sin(x) * step)  # the line
            scaled(x)

    (warning,) = caught(loop)
    assert line_of(warning).endswith("# the line\n")
    said = f"{source.name}2{target.name} has wrapped <lambda> {MANY} times in this line"
    assert said in str(warning.message)


def test_repeats_of_a_decorator_partial_and_method(bridged, kits):
    source, target = kits
    x = target.array(X)

    class Model:
        def method(self, x):
            return source.xp.sin(x)

    def decorated():
        @bridged
        def inner(x):
            return source.xp.sin(x)

        return inner

    def plain(n, x):
        return source.xp.sin(x) * n

    for make in (
        decorated,
        lambda: bridged(functools.partial(plain, 2)),
        lambda: bridged(Model().method),
    ):
        assert len(caught(lambda make=make: [make()(x) for _ in range(MANY)])) == 1
        assert caught(lambda make=make: [make() for _ in range(MANY)]) == []


def test_repeats_of_a_module():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    net, x = torch.nn.Linear(2, 1), jax.numpy.asarray(X)

    def loop():
        for _ in range(MANY):
            bridged = bridge.torch2jax(net, capture="never")
            bridged.apply(bridged.params, bridged.buffers, x)

    assert len(caught(loop)) == 1
    others = lambda: [bridge.torch2jax(torch.nn.Linear(2, 1)) for _ in range(MANY)]
    assert caught(others) == []


def test_no_repeats_where_the_wrapper_is_kept_or_the_lines_differ(bridged, kits):
    source, target = kits
    x = target.array(X)
    once = bridged(lambda x: source.xp.sin(x))
    assert caught(lambda: [once(x) for _ in range(2 * MANY)]) == []
    functions = [eval(f"lambda x: x * {n}") for n in range(MANY)]
    assert caught(lambda: [bridged(fn)(x) for fn in functions]) == []


def test_repeats_keep_no_code_alive():
    kit("torch")
    pytest.importorskip("jax")
    fn = eval("lambda x: x + 1")
    bridge.jax2torch(fn)
    code = weakref.ref(fn.__code__)
    del fn
    gc.collect()
    assert code() is None
