"""The operator that stands for a bridged function in graphs, fake tensors and make_fx."""

import json

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import COMPILED, assert_close, leaves, recorded, rows  # noqa: E402
from tests.records import recorder  # noqa: E402

pytestmark = COMPILED

OPERANDS = {
    "float": ((lambda x, y: x * y), lambda: (rows().requires_grad_(), rows().cos())),
    "two floats": (
        lambda x, y: (x * y, x.sum()),
        lambda: (rows().requires_grad_(), rows().cos().requires_grad_()),
    ),
    "int": (lambda x, y: x[y], lambda: (torch.arange(3) + 3, torch.tensor([2, 0]))),
    "float and int": (lambda x, y: x[y], lambda: (rows().requires_grad_(), torch.tensor([2, 0]))),
    "complex": (
        lambda x, y: x * y,
        lambda: (torch.tensor([1 - 2j, 3j]).requires_grad_(), torch.tensor([0.5 + 1j, 2.0])),
    ),
}


def operands(f, *xs):
    """The strings by which a graph names `f` and its arguments, from a graph."""
    nodes = recorded(f, *xs).graph.nodes
    (call,) = [node for node in nodes if node.target is torch.ops.bridge.call.default]
    return call.args[:2]


@pytest.mark.parametrize(("function", "make"), OPERANDS.values(), ids=OPERANDS)
def test_opcheck_of_the_call(into_torch, function, make):
    _, wrap = into_torch
    f, xs = wrap(function), make()
    args = (*operands(f, *xs), [*xs])  # first, since a call registers the operator
    torch.library.opcheck(torch.ops.bridge.call.default, args)


@pytest.mark.parametrize(
    "name", [name for name in OPERANDS if name != "int"], ids=lambda name: name
)
def test_opcheck_of_its_gradient(into_torch, name):
    _, wrap = into_torch
    function, make = OPERANDS[name]
    f, xs = wrap(function), [x.detach() for x in make()]
    one = torch.ones_like(leaves(f(*xs))[0])
    rows = [torch.stack([x, x]) for x in [*xs, one]]
    axes = ["vmap", [0] * len(rows)]
    for steps, args in {
        '["vjp", [0], [0]]': [*xs, one],
        '["jvp", [0]]': [*xs, xs[0]],
        '["vjp", [0], [0]], ["vjp", [0], [0]]': [*xs, one, xs[0]],
        f'["vjp", [0], [0]], {json.dumps(axes)}': rows,
    }.items():
        call = (*operands(f, *xs), f"[{steps}]", args)
        torch.library.opcheck(torch.ops.bridge.derived.default, call)


def test_fake_tensors_get_shapes_and_dtypes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: {"twice": source.xp.concatenate([x, x]), "best": x.argmax()})
    with torch._subclasses.FakeTensorMode() as mode:
        found = f(mode.from_tensor(rows()))
    expected = f(rows())
    assert list(found) == list(expected)
    for name, y in found.items():
        assert type(y).__name__ == "FakeTensor"
        assert (y.shape, y.dtype, y.device) == (
            expected[name].shape,
            expected[name].dtype,
            expected[name].device,
        )


def test_fake_tensors_run_the_function_on_no_values(into_torch):
    source, wrap = into_torch
    seen, see = recorder()
    f = wrap(lambda x: (see(type(x)), source.xp.sin(x))[1])
    with torch._subclasses.FakeTensorMode():
        assert f(torch.empty(1 << 20, 1 << 20)).shape == (1 << 20, 1 << 20)
    assert len(seen) == 1


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx_records_the_operator(into_torch, mode):
    source, wrap = into_torch
    f = wrap(lambda x, y: (source.xp.sin(x) * y, x.sum()))
    graph = recorded(lambda x, y: f(x, y=y)[0] + 1, rows(), rows(), mode=mode)
    assert torch.ops.bridge.call.default in {node.target for node in graph.graph.nodes}
    x = rows() + 1
    assert_close(graph(x, x.cos()), x.sin() * x.cos() + 1)


def test_make_fx_records_other_sizes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)]))
    graph = recorded(lambda x: f(x).reshape(-1), rows(), mode="symbolic")
    x = rows(7)
    assert_close(graph(x), torch.concatenate([x, x.sin()]).reshape(-1))


def test_make_fx_records_gradients(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x))

    def slope(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0]

    graph = recorded(slope, rows())
    assert_close(graph(rows() + 1), (rows() + 1).cos())
