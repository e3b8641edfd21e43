"""Modules that one process has brought to another framework, and another process unpickles."""

import pickle

import numpy as np
import pytest

from bridge import torch2jax, torch2mlx
from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
nn = torch.nn

X = np.random.default_rng(4).normal(size=(4, 3)).astype("float32")
LABELS = np.array([0, 1, 1, 0], "int32")


class Classifier(nn.Module):
    """A layer, statistics and dropout; a loss if there are labels."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)

    def forward(self, x, labels=None, scale="one"):
        y = self.dropout(self.norm(self.layer(x))) * (2 if scale == "two" else 1)
        return y if labels is None else nn.functional.cross_entropy(y, labels)


OPTIONS = {
    "none": {},
    "require": {"capture": "require"},
    "never": {"capture": "never"},
    "xla": {"lower": "xla"},
    "device": {"device": "cpu"},
    "integers": {"integers": "int64"},
    "integers, never": {"integers": "int64", "capture": "never"},
}


def outputs(there, case):
    """What the module returns with its own values, as lists, and its gradient."""
    key = jax.random.key(2)
    labels = {"labels": jax.numpy.asarray(LABELS)} if "integers" in case else {"scale": "two"}

    def loss(params):
        output, buffers = there.apply(params, there.buffers, X, **labels, rng=key)
        return (output**2).sum(), buffers

    gradients, buffers = jax.grad(loss, has_aux=True)(there.params)
    return {name: x.tolist() for name, x in {**gradients, **buffers}.items()}


def load(text):
    cases = pickle.loads(bytes.fromhex(text))
    # Computed first, since the `repr` then names the way of its derivatives.
    results = {case: outputs(there, case) for case, there in cases.items()}
    return {case: [repr(there), results[case]] for case, there in cases.items()}


def test_modules_are_unpickled_with_every_option():
    torch.manual_seed(3)
    cases = {}
    for case, options in OPTIONS.items():
        module = Classifier()
        module.norm.eval()
        there = torch2jax(module, **options)
        there.params = {name: 2 * x for name, x in there.params.items()}
        cases[case] = there
    found = fresh_process(load, pickle.dumps(cases).hex())
    for case, there in cases.items():
        expected = outputs(there, case)
        assert found[case][0] == repr(there)
        assert found[case][1].keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_allclose(found[case][1][name], values, rtol=1e-5, err_msg=name)


def load_apply(text):
    apply, params, buffers = pickle.loads(bytes.fromhex(text))
    return np.asarray(apply(params, buffers, X)[0]).tolist()


def test_the_pure_function_of_a_module_is_unpickled():
    there = torch2jax(nn.Linear(3, 2))
    text = pickle.dumps((there.apply, there.params, there.buffers)).hex()
    expected = there.apply(there.params, there.buffers, X)[0]
    np.testing.assert_allclose(fresh_process(load_apply, text), expected, rtol=1e-6)


def load_mlx(text):
    import mlx.core as mx

    there = pickle.loads(bytes.fromhex(text))
    return np.asarray(there(mx.array(X))).tolist()


def test_a_module_in_mlx_is_unpickled():
    mx = pytest.importorskip("mlx.core")
    there = torch2mlx(nn.Linear(3, 2), integers="int64")
    expected = there(mx.array(X))
    np.testing.assert_allclose(fresh_process(load_mlx, pickle.dumps(there).hex()), expected)
