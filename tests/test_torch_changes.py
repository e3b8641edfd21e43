"""Functions of torch that change what they capture, by augmented operators and by `out=`."""

import contextlib

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy

from bridge import ArgumentError, NoRuleError, NoValuesError, torch2jax  # noqa: E402

X = np.array([0.5, -1.25, 2.0], "float32")
TOTAL = torch.ones(())
REFUSED = r"changes a tensor \((float32|int64)\[.*\]\) in place that is none of its arguments"


class Count:
    """A helper that counts in a tensor."""

    def __init__(self, start=0.0):
        self.count = torch.full((), start)

    def __call__(self, x):
        self.count += 1
        return x / self.count


class Steps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        self.steps += 1
        return self.layer(x) / self.steps


class Helped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.helpers = [Count()]

    def forward(self, x):
        return self.helpers[0](x)


def attribute():
    helper = Count()
    return helper, lambda: helper.count


def of_a_module():
    net = Steps()
    return (lambda x: net(x)), lambda: net.steps


def method_of_a_module():
    net = Steps().requires_grad_(False)
    return net.forward, lambda: net.steps


def in_an_inner_object():
    net = Helped()
    return (lambda x: net(x)), lambda: net.helpers[0].count


def cell():
    total = torch.ones(())

    def f(x):
        nonlocal total
        total *= 2
        return x * total

    return f, lambda: total


def named_anew():
    total = torch.ones(())

    def f(x):
        mine = total
        mine += 1
        return x * mine

    return f, lambda: total


def of_globals():
    def f(x):
        global TOTAL
        TOTAL += 1
        return x * TOTAL

    return f, lambda: TOTAL


def element():
    totals = [torch.ones(())]

    def f(x):
        totals[0] -= 0.5
        return x * totals[0]

    return f, lambda: totals[0]


def by_lists():
    total = torch.ones(2)

    def f(x):
        torch._foreach_add_([total], 1.0)
        return x * total.sum()

    return f, lambda: total


def entry():
    totals = {"total": torch.ones(2)}

    def f(x):
        totals["total"][1] /= 3
        return x * totals["total"].sum()

    return f, lambda: totals["total"]


def view():
    total = torch.ones(2, 2)

    def f(x):
        first = total[0]
        first += 1
        return x * total.sum()

    return f, lambda: total


def without_gradients():
    weight = torch.nn.Parameter(torch.ones(3))

    def f(x):
        nonlocal weight
        with torch.no_grad():
            weight -= 0.1
        return x * weight

    return f, lambda: weight


def unused():
    helper = Count()

    def f(x):
        helper.count += 1
        return 2 * x

    return f, lambda: helper.count


def caught():
    total = torch.ones(())

    def f(x):
        mine = total
        with contextlib.suppress(RuntimeError):
            mine += 1
        return x * mine

    return f, lambda: total


def by_out():
    total = torch.ones(3)

    def f(x):
        torch.add(total, x, out=total)
        return total.clone()

    return f, lambda: total


def by_out_of_constants():
    total = torch.ones(())

    def f(x):
        torch.add(total, 1, out=total)
        return x * total

    return f, lambda: total


def by_several_out():
    values, places = torch.ones(()), torch.zeros((), dtype=torch.int64)

    def f(x):
        torch.max(torch.arange(3.0), 0, out=(values, places))
        return x * values

    return f, lambda: values


def by_data():
    total = torch.ones(3)

    def f(x):
        total.data = total.data + 1
        return x * total

    return f, lambda: total


def by_augmented_data():
    total = torch.ones(3)

    def f(x):
        total.data += 1
        return x * total

    return f, lambda: total


def by_gradient():
    weight = torch.nn.Parameter(torch.ones(()))

    def f(x):
        weight.grad = x.sum()
        return x * weight

    return f, lambda: weight


CHANGES = [
    *(attribute, of_a_module, method_of_a_module, in_an_inner_object, cell, named_anew),
    *(
        by_data,
        by_augmented_data,
        by_gradient,
        of_globals,
        element,
        by_lists,
        without_gradients,
        unused,
        caught,
    ),
]
OUT = [by_out, by_out_of_constants, by_several_out]


@pytest.fixture(autouse=True)
def _global_state():
    global TOTAL
    TOTAL = torch.ones(())


@pytest.mark.parametrize("make", [*CHANGES, *OUT])
@pytest.mark.parametrize("way", ["plain", "jit", "xla", "grad"])
def test_a_captured_tensor_that_is_changed_is_refused(make, way):
    function, read = make()
    kept, before = read(), read().clone()
    there = torch2jax(function, lower="xla" if way == "xla" else "ffi")
    call = {"jit": jax.jit, "grad": lambda f: jax.grad(lambda x: f(x).sum())}.get(way, lambda f: f)
    with pytest.raises(ArgumentError, match=REFUSED):
        call(there)(jnp.asarray(X))
    assert read() is kept
    assert type(kept) in (torch.Tensor, torch.nn.Parameter)
    assert torch.equal(kept, before)


def test_a_helper_of_a_module_that_is_passed_is_refused():
    net = Helped()
    there = torch2jax(net)
    with pytest.raises(ArgumentError, match=REFUSED):
        there.apply({}, {}, jnp.asarray(X))
    assert type(net.helpers[0].count) is torch.Tensor
    assert net.helpers[0].count == 0


def test_a_counter_of_a_module_that_is_passed_is_a_buffer():
    net = Steps()
    there = torch2jax(net)
    _, buffers = there.apply(there.params, there.buffers, jnp.asarray(X))
    assert buffers["steps"] == 1
    assert type(net.steps) is torch.Tensor
    assert net.steps == 0


def test_what_is_computed_inside_may_be_changed():
    def f(x):
        total = x.clone()
        total += 1
        torch.mul(total, 2, out=total)
        return total

    np.testing.assert_allclose(torch2jax(f)(jnp.asarray(X)), 2 * (X + 1))


@pytest.mark.parametrize("make", [entry, view])
@pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph, since it changes in place")
def test_a_part_of_a_captured_tensor_that_is_changed_runs_anew(make):
    (function, read), (native, other) = make(), make()
    kept, there = read(), torch2jax(function)
    for _ in range(3):
        np.testing.assert_allclose(there(jnp.asarray(X)), native(torch.tensor(X)), rtol=1e-6)
        assert torch.equal(read(), other())
    assert read() is kept
    with pytest.raises(NoValuesError, match="it changes in place a tensor that it has computed"):
        torch2jax(function, lower="xla")(jnp.asarray(X))


def lent_to_numpy():
    total = torch.ones(3)

    def f(x):
        total.numpy()[:] += 1
        return x * total

    return f, lambda: total


def detached():
    total = torch.ones(3)

    def f(x):
        total.detach().add_(1)
        return x * total

    return f, lambda: total


def accumulated():
    weight = torch.ones(3, requires_grad=True)

    def f(x):
        (weight * x.detach()).sum().backward()
        return x * weight.grad

    return f, lambda: weight.grad


@pytest.mark.parametrize("make", [lent_to_numpy, detached])
@pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph")
def test_memory_that_is_written_to_past_torch_runs_anew(make):
    (function, read), (native, other) = make(), make()
    there = torch2jax(function)
    for _ in range(3):
        np.testing.assert_allclose(there(jnp.asarray(X)), native(torch.tensor(X)), rtol=1e-6)
        assert torch.equal(read(), other())


@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_a_gradient_that_is_accumulated_is_refused(lower):
    function, read = accumulated()
    with pytest.raises(NoRuleError, match=r"`.backward\(\)` in it adds to the `.grad` of tensors"):
        torch2jax(function, lower=lower)(jnp.asarray(X))
    assert read() is None


NEVER = [
    by_data,
    by_augmented_data,
    lent_to_numpy,
    detached,
    accumulated,
    by_out,
    by_out_of_constants,
    by_several_out,
    by_lists,
    cell,
    named_anew,
    entry,
    view,
]


@pytest.mark.parametrize("make", NEVER)
def test_changes_go_on_from_call_to_call_where_a_function_runs_anew(make):
    (function, read), (native, other) = make(), make()
    there = torch2jax(function, capture="never")
    for _ in range(3):
        np.testing.assert_allclose(there(jnp.asarray(X)), native(torch.tensor(X)), rtol=1e-6)
        assert torch.equal(read(), other())
