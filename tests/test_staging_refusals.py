"""Arguments and functions that a recorded graph cannot hold."""

import numpy as np
import pytest

import bridge

torch = pytest.importorskip("torch")

from tests.compiling import COMPILED, assert_close, compiled, rows  # noqa: E402
from tests.versions import NEWER_DYNAMO  # noqa: E402

pytestmark = COMPILED

CONSTANTS = {
    "numpy": lambda source: np.ones(3, "float32"),
    "source": lambda source: source.array(np.ones(3, "float32")),
}


def with_fake_tensors(f, x, *others):
    with torch._subclasses.FakeTensorMode() as mode:
        return f(mode.from_tensor(x), *others)


def with_compiler(f, x, *others):
    return compiled(lambda x: f(x, *others))(x)


WHERE = {"compile": pytest.param(with_compiler, marks=NEWER_DYNAMO), "fake": with_fake_tensors}


@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS)
@pytest.mark.parametrize("call", WHERE.values(), ids=WHERE)
def test_foreign_arrays_are_refused(into_torch, constant, call):
    source, wrap = into_torch
    f, other = wrap(lambda x, y: x * y), constant(source)
    with pytest.raises(Exception, match=r"constant of the recorded graph\. Pass it as a tensor"):
        call(f, rows(), other)


@pytest.mark.parametrize("call", WHERE.values(), ids=WHERE)
def test_prng_keys_are_refused(call):
    jax = pytest.importorskip("jax")
    f, key = bridge.jax2torch(lambda x, key: x + jax.random.normal(key, x.shape)), jax.random.key(0)
    with pytest.raises(Exception, match="a PRNG key by its key data"):
        call(f, rows(), key)


def test_an_error_of_the_function_is_named(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) @ x)
    with pytest.raises(Exception, match=r"dot_general|shapes? .*\(4, ?3\)|incompatible"):
        compiled(lambda x: f(x))(rows())


def test_a_function_that_looks_at_values_is_refused_with_a_reason():
    pytest.importorskip("jax")
    f = bridge.jax2torch(lambda x: x if x.sum() > 0 else -x, jit=False)
    assert_close(f(rows()), rows())
    with pytest.raises(Exception, match=r"TracerBoolConversion|traced|jit=False"):
        compiled(lambda x: f(x))(rows())
