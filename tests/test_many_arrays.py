"""Calls with hundreds of arrays, and with hundreds of plans."""

import itertools

import numpy as np
import pytest

import bridge
from bridge._core.op import Op

COUNT = 600  # MLX names arguments and results, by keyword arguments: at most 1,024


def weighted(*xs):
    """The products of neighbours, so that a gradient tells which array is which."""
    return [(i + 1) * x * y for i, (x, y) in enumerate(zip(xs, (*xs[1:], xs[0]), strict=True))]


def expected_gradient(values):
    """Of the sum of `weighted`: each is in the product with its right and its left neighbour."""
    number = np.arange(1, len(values) + 1)
    return number * np.roll(values, -1) + np.roll(number, 1) * np.roll(values, 1)


VALUES = np.random.default_rng(3).uniform(-1.5, 1.5, COUNT).astype("float32")


def test_hundreds_of_arrays_of_a_function_of_mlx_in_torch():
    pytest.importorskip("mlx.core")
    torch = pytest.importorskip("torch")
    f = bridge.mlx2torch(weighted)
    xs = [torch.tensor(x, requires_grad=True) for x in VALUES]
    outputs = f(*xs)
    assert [y.item() for y in outputs] == pytest.approx([y.item() for y in weighted(*VALUES)])
    gradients = torch.autograd.grad(sum(outputs), xs)
    assert [g.item() for g in gradients] == pytest.approx(expected_gradient(VALUES), rel=1e-4)


def test_names_of_a_graph_are_read_in_parts(monkeypatch):
    mx = pytest.importorskip("mlx.core")
    from bridge._arrays.mlx.upstream import dot_graph

    xs = [mx.array(float(i)) for i in range(7)]
    named = {f"x_{i}": x for i, x in enumerate(xs)}
    products = [a * b + mx.sin(a) for a, b in itertools.pairwise(xs)]
    ys = [mx.contiguous(y) for y in (*products, products[2], xs[4])]
    named |= {f"y_{i}": y for i, y in enumerate(ys)}

    def named_arrays():
        steps = dot_graph.read_graph(ys, named)
        return [(s.name, [x if x in named else "" for x in (*s.inputs, *s.outputs)]) for s in steps]

    whole = named_arrays()
    monkeypatch.setattr(dot_graph, "_MOST_NAMES", 3)
    assert named_arrays() == whole
    assert {x for _, arrays in whole for x in arrays} >= {*named}


def test_plans_that_are_gone_round_are_kept():
    """Were one less kept, each round of calls with so many sizes would make all of them again."""
    made = []
    op = Op(name="f", framework="jax", call=lambda: (), output_specs=lambda: ())
    rules = op.rules.__class__(vmap=lambda axes, size: made.append(size) or op)
    op = op.__class__(name="f", framework="jax", call=op.call, output_specs=list, rules=rules)
    for size in [*range(1000), *range(1000)]:
        op.derive("vmap", (0,), size)
    assert len(made) == 1000
