"""How long functions, traces and tensors live: none outlives its last use."""

import gc
import itertools
import sys
import warnings
import weakref

import numpy as np
import pytest

from tests.processes import fresh_process, needs_proc, resident

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402, behind the skips

from bridge import jax2torch  # noqa: E402
from bridge._calls import plan_cache  # noqa: E402
from bridge._core import op  # noqa: E402

X = np.random.default_rng(51).uniform(0.3, 1.5, (4, 3)).astype("float32")


def leaf():
    return torch.tensor(X, requires_grad=True)


# Functions. What a use of a function leaves behind is counted by XLA, and by weak references.

USES = {
    "value": lambda f: f(torch.tensor(X)),
    "value that wants a gradient": lambda f: f(leaf()),
    "backward": lambda f: f(leaf()).sum().backward(),
    "second order": lambda f: torch.autograd.functional.hessian(
        lambda x: f(x).sum(), torch.tensor(X)
    ),
    "vmap": lambda f: torch.func.vmap(f)(torch.tensor(X)),
    "forward over reverse": lambda f: torch.func.hessian(lambda x: f(x).sum())(torch.tensor(X)),
    "checkpoint": lambda f: (
        torch.utils.checkpoint.checkpoint(f, leaf(), use_reentrant=False).sum().backward()
    ),
    "double precision": lambda f: f(torch.tensor(X, dtype=torch.float64)),
    "meta": lambda f: f(torch.empty(3, device="meta")),
    "number": lambda f: f(2.0),
}
OPTIONS = {
    "save": {"residuals": "save"},
    "recompute": {"residuals": "recompute"},
    "eager": {"jit": False},
}
CASES = {
    f"{use}-{option}": (USES[use], OPTIONS[option])
    for use in USES
    for option in OPTIONS
    if option == "save" or use == "backward"
}


def executables():
    """How many compiled programs XLA holds."""
    gc.collect()
    return len(jax.devices()[0].client.live_executables())


@pytest.mark.parametrize(("use", "options"), CASES.values(), ids=CASES)
def test_function_is_freed_with_its_last_reference(use, options):
    """So are the wrapped function, what it closes over, and what was compiled for it."""
    use_once(use, options)  # what JAX compiles once for itself
    before = executables()
    alive = use_once(use, options)
    gc.collect()
    assert [ref() for ref in alive] == [None, None, None]
    assert executables() <= before


def use_once(use, options):
    """Weak references to a function, to what it closes over, and to the wrapped function."""
    weights = jnp.asarray(2.5)
    fn = lambda x: jnp.sin(x) * weights
    f = jax2torch(fn, **options)
    use(f)
    return [weakref.ref(fn), weakref.ref(weights), weakref.ref(f)]


def test_graph_keeps_what_its_backward_needs_when_the_function_is_gone():
    x = leaf()
    y = jax2torch(lambda x: jnp.sin(x))(x)
    gc.collect()
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(g, x.cos())
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x)[0], -x.detach().sin())


def test_static_value_is_freed_with_the_function():
    class Setting:
        scale = 2.0

    setting = Setting()
    f = jax2torch(lambda x, setting: x * setting.scale)
    f(leaf(), setting).sum().backward()
    alive = weakref.ref(setting)
    del f, setting
    gc.collect()
    assert alive() is None


def test_class_of_a_static_value_is_freed_with_the_function():
    """Notebooks define classes anew all day long."""

    class Setting:
        scale = 2.0

    f = jax2torch(lambda x, setting: x * setting.scale)
    f(leaf(), Setting()).sum().backward()
    alive = weakref.ref(Setting)
    del f, Setting
    gc.collect()
    assert alive() is None


def failing(x):
    return x.reshape(7)


def test_argument_of_a_call_that_raised_is_freed():
    f = jax2torch(failing)
    x = leaf()
    alive = weakref.ref(x)
    with pytest.raises(TypeError, match="reshape"):
        f(x)
    del x
    sys.last_exc = None
    gc.collect()
    assert alive() is None


def test_call_that_raised_leaves_no_trace():
    """And does not count as one."""
    f = jax2torch(failing)
    for _ in range(3):
        f(torch.ones(7))
        with pytest.raises(TypeError, match="reshape"):
            f(leaf())
    before = executables()
    with pytest.raises(TypeError, match="reshape"):
        f(leaf())
    assert executables() == before


# Calls.


def python_blocks(call, count):
    """How many blocks of memory Python holds more after `count` calls, at the least of three.

    Caches fill up for a while; a leak is the same each time.
    """
    marks = []
    for _ in range(4):
        for _ in range(count):
            call()
        gc.collect()
        marks.append(sys.getallocatedblocks())
    return min(after - before for before, after in itertools.pairwise(marks))


CALLS = {
    "value": lambda f, x: lambda: f(x.detach()),
    "backward": lambda f, x: lambda: torch.autograd.grad(f(x), x),
    "graph that is dropped": lambda f, x: lambda: f(x),
    "double backward": lambda f, x: (
        lambda: torch.autograd.grad(torch.autograd.grad(f(x), x, create_graph=True)[0].sum(), x)
    ),
    "jvp": lambda f, x: lambda: torch.func.jvp(f, (x.detach(),), (x.detach(),)),
    "gradient per sample": lambda f, x: lambda: torch.func.vmap(torch.func.grad(f))(x.detach()),
    "keywords": lambda f, x: lambda: torch.autograd.grad(f(x=x), x),
    "error": lambda f, x: lambda: raising(f),
}


def raising(f):
    with pytest.raises(TypeError):
        f(object, [{}])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_calls_leave_no_objects_behind(call):
    """One object a call would be 300."""
    f = jax2torch(lambda x: (jnp.sin(x) * x).sum())
    assert python_blocks(call(f, leaf()), 300) < 200


def memory_of_calls(count):
    """What `count` calls with their backward leave."""
    f = jax2torch(lambda x: (jnp.sin(x) * x).sum())
    x = torch.ones(4096, requires_grad=True)

    def call():
        f(x).backward()
        x.grad = None

    return left_by(call, count)


def memory_of_functions(count):
    """What `count` short-lived functions of different names leave."""
    x = torch.ones(64, requires_grad=True)
    numbers = iter(range(10**9))

    def call():
        number = next(numbers)
        fn = lambda x: (x * x * number).sum()
        fn.__name__ = fn.__qualname__ = f"function_{number}"
        torch.autograd.grad(jax2torch(fn)(x), x)

    return left_by(call, count)


def memory_of_shapes(count):
    """What `count` shapes of the argument of one function leave, where 256 are kept."""
    plan_cache._MOST_PLANS = op._MOST_DERIVED = 256
    f = jax2torch(lambda x: (jnp.sin(x) * x).sum())
    shapes = iter(range(1, 10**9))
    warnings.simplefilter("ignore")  # of many traces

    def call():
        x = torch.ones(next(shapes), requires_grad=True)
        torch.autograd.grad(f(x), x)

    return left_by(call, count)


def left_by(call, count):
    """Megabytes that each half of the calls adds, all of it, and programs that XLA holds then."""
    for _ in range(count // 10):
        call()
    before = executables()
    marks = [resident()]
    for _ in range(2):
        for _ in range(count // 2):
            call()
        marks.append(resident())
    return [marks[1] - marks[0], marks[2] - marks[1], marks[2], executables() - before]


def measured(memory, count, *, timeout):
    first, second, whole, programs = fresh_process(memory, count, timeout=timeout)
    print(
        f"{memory.__name__}({count}): {first:.2f} MB, then {second:.2f} MB, of {whole:.0f} MB, "
        f"and {programs} programs"
    )
    return second, programs


@needs_proc
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_of_many_calls_is_flat(count):
    """A leaked argument or residual is 16 KB: 16 MB in the second half of 2,000."""
    added, programs = measured(memory_of_calls, count, timeout=1200)
    assert added < 2
    assert programs == 0


@needs_proc
@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.slow)])
def test_memory_of_many_functions_is_flat(count):
    """A function that is kept is two programs of 1.6 MB."""
    added, programs = measured(memory_of_functions, count, timeout=1200)
    assert added < 5
    assert programs <= 2


@needs_proc
@pytest.mark.slow
def test_memory_of_many_shapes_is_flat():
    """A shape is two programs of 1.6 MB, as in JAX alone: 1.6 GB in the second half, if kept.

    Caches of JAX fill up: 12 MB were seen.
    """
    added, programs = measured(memory_of_shapes, 1000, timeout=2400)
    assert added < 60
    assert programs <= 2 * 256


@pytest.fixture
def few_kept(monkeypatch):
    """Eight of what is kept in the hundreds, so that a test reaches the end of it."""
    monkeypatch.setattr(plan_cache, "_MOST_PLANS", 8)
    monkeypatch.setattr(op, "_MOST_DERIVED", 8)
    return 8


@pytest.mark.filterwarnings("ignore:.*has been traced:UserWarning")
def test_shapes_that_are_dropped_are_freed(few_kept):
    """Their number is bounded, and what was compiled for them goes with them."""
    f = jax2torch(lambda x: (x * x).sum())
    before = executables()
    for n in [*range(1, 21), 1, 2]:
        x = torch.ones(n, requires_grad=True)
        f(x).backward()
        assert torch.equal(x.grad, 2 * torch.ones(n))
    assert executables() - before <= 2 * few_kept


def test_sizes_of_batches_that_are_dropped_are_freed(few_kept):
    f = jax2torch(lambda x: x * x)
    before = executables()
    for n in [*range(1, 21), 1, 2]:
        x = torch.rand(n, 3)
        assert torch.equal(torch.func.vmap(f)(x), x * x)
    assert executables() - before <= few_kept
