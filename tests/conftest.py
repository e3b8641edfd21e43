"""Fixtures and helpers of all tests: directions, wrappers, and what each test begins with."""

import functools
import importlib

import pytest

import bridge
from bridge import _registry
from bridge._calls import rewrapping
from bridge._lowering import user
from tests import processes
from tests.kits import Kit, kit
from tests.records import recorder

DIRECTIONS = _registry.directions()


def wrapper(source, target):
    """The function that brings functions of `source` to `target`.

    Into torch and MLX it keeps residuals, unless a test asks otherwise: that is the path with more
    to get wrong, and which one `residuals="auto"` takes for a small function is a matter of cost.
    """
    wrap = getattr(bridge, f"{source}2{target}")
    if source == "torch":  # which says otherwise that a function runs anew on each call
        ways = {True: "auto", False: "never"}
        return lambda *fn, jit=True, **how: wrap(*fn, capture=ways[jit], **how)
    if target == "torch" or source == "jax":
        wrap = functools.partial(wrap, residuals="save")
    if source == "mlx":  # which runs a function anew on each call anyway
        return lambda *fn, jit=True, **how: wrap(*fn, **how)
    return wrap


def counted(fn):
    """`fn`, and the list of the arguments it was run with, also in runs that leave no trace."""
    runs, record = recorder()

    @functools.wraps(fn)
    def counting(*args, **kwargs):
        record((args, kwargs))
        return fn(*args, **kwargs)

    return counting, runs


@pytest.fixture(autouse=True)
def _lacking(request):
    """Expect a test to fail whose source cannot do what the test needs, and say why."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    direction = params.get("kits") or params.get("into_torch")
    if direction is None:
        return
    source = kit(direction[0])
    run = True
    reasons = [f"{source.name} has no {x}" for x in params.values() if not source.holds(x)]
    for needs in request.node.iter_markers("needs"):
        reasons += [source.lacks[need] for need in needs.args if need in source.lacks]
        run = needs.kwargs.get("run", True)
    if reasons:
        request.applymarker(pytest.mark.xfail(reason=reasons[0], strict=True, run=run))


@pytest.fixture(autouse=True)
def _wrapped_anew(monkeypatch):
    """Tests and their parameters wrap one function often, and mean it."""
    monkeypatch.setattr(rewrapping, "_MOST", 10**9)


@pytest.fixture(autouse=True)
def _registered():
    """Forget the operators that a test, or an example in it, has registered."""
    before = dict(user.USER_LOWERINGS)
    yield
    user.USER_LOWERINGS.clear()
    user.USER_LOWERINGS.update(before)


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    """Forget compiled programs when a module of tests ends in a process that has grown large."""
    yield
    processes.forget_programs()


@pytest.fixture
def x64():
    """JAX counts in 64 bits."""
    with pytest.importorskip("jax").enable_x64(True):
        yield


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


@pytest.fixture
def fresh_compiler(tmp_path_factory, monkeypatch):
    """Nothing compiled before, in this process or by an earlier run of the tests."""
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
    torch.compiler.reset()
    importlib.import_module("torch._dynamo.utils").counters.clear()


@pytest.fixture(params=DIRECTIONS, ids=lambda d: f"{d[0]}2{d[1]}")
def kits(request) -> tuple[Kit, Kit]:
    """The framework a function is written in, and the one it is called from."""
    return kit(request.param[0]), kit(request.param[1])


@pytest.fixture
def bridged(kits):
    """`bridged(fn, **options)`: `fn` written for the source, callable from the target."""
    source, target = kits
    return wrapper(source.name, target.name)


@pytest.fixture(params=[target for source, target in DIRECTIONS if source == "jax"])
def target(request) -> Kit:
    """A framework that functions of JAX are called from."""
    return kit(request.param)


@pytest.fixture(params=[d for d in DIRECTIONS if d[1] == "torch"], ids=lambda d: f"{d[0]}2{d[1]}")
def into_torch(request):
    """The kit of a source, and the wrapper that brings its functions to torch.

    For what only PyTorch has: hooks, version counters, dual numbers, `gradcheck`.
    """
    kit("torch")
    return kit(request.param[0]), wrapper(*request.param)
