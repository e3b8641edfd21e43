"""Results in containers that are rebuilt by their own code, around arrays of another framework."""

import collections
import copy
import pickle
import typing

import numpy as np
import pytest

from bridge import ArgumentError, jax2torch, to_jax, to_mlx, to_torch, torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
torch_pytree = pytest.importorskip("torch.utils._pytree")

X = np.array([1.5, -2.0, 0.25], "float32")


class Cache:
    """Keys and values of a language model; joins them to what it has when it is made."""

    def __init__(self, keys, values):
        self.keys = torch.cat([torch.tensor([], dtype=keys.dtype), keys])
        self.values = values

    def parts(self):
        return [self.keys, self.values], None


class Converting(Cache):
    """Makes tensors of whatever it gets, and a gradient would end there."""

    def __init__(self, keys, values):
        is_tensor = isinstance(keys, torch.Tensor)
        self.keys, self.values = keys if is_tensor else torch.tensor(np.asarray(keys)), values


class Losing(Cache):
    """Keeps tensors alone."""

    def __init__(self, keys, values):
        self.keys, self.values = keys, values if isinstance(values, torch.Tensor) else None


class Storing(Cache):
    """Stores what it gets."""

    def __init__(self, keys, values):
        self.keys, self.values = keys, values


class Computing(Cache):
    """Computes by operators that arrays of all frameworks have."""

    def __init__(self, keys, values):
        self.doubled, self.values = keys * 2, values

    def parts(self):
        return [self.doubled / 2, self.values], None


for kind in (Cache, Converting, Losing, Storing, Computing):
    torch_pytree.register_pytree_node(
        kind,
        lambda cache: cache.parts(),
        lambda parts, _, kind=kind: kind(*parts),
        serialized_type_name=f"{__name__}.{kind.__name__}",
    )


def returning(kind):
    return lambda x: {"y": x.sin(), "states": [x.cos(), kind(x * 2, x * 3)]}


WAYS = {"graph": {}, "rerun": {"capture": "never"}, "xla": {"lower": "xla"}}
REASONS = {
    Cache: "TypeError: .*dtype",
    Converting: "it makes arrays of torch of them|TracerArrayConversionError",
    Losing: "it has 1 of 2 arrays",
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", REASONS)
def test_a_container_that_cannot_hold_arrays_of_jax_is_refused(kind, way, jit):
    there = torch2jax(returning(kind), **WAYS[way])
    place = rf"result\['states'\]\[1\] of <lambda> is a {kind.__name__}, which cannot be rebuilt"
    for _ in range(2):
        with pytest.raises(ArgumentError, match=f"{place} around arrays of jax .({REASONS[kind]})"):
            (jax.jit(there) if jit else there)(X)
    with pytest.raises(ArgumentError, match=place):
        jax.grad(lambda x: there(x)["y"].sum())(X)


def test_the_advice_names_the_option_of_caches_alone():
    with pytest.raises(ArgumentError, match=r"Return its arrays, or .* \(`use_cache=False`\)\.$"):
        torch2jax(returning(Cache))(X)
    with pytest.raises(ArgumentError, match=r"or call the function without it\.$"):
        torch2jax(returning(Losing))(X)


def test_a_container_is_refused_in_mlx():
    mx = pytest.importorskip("mlx.core")
    with pytest.raises(ArgumentError, match=r"is a Cache, .* around arrays of mlx \(.*dtype"):
        torch2mlx(returning(Cache))(mx.array(X))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Storing, Computing])
def test_containers_that_hold_any_array_pass(kind, way):
    there = torch2jax(returning(kind), **WAYS[way])
    for _ in range(2):
        state = there(X)["states"][1]
        assert type(state) is kind
        np.testing.assert_allclose(state.values, 3 * X)
        np.testing.assert_allclose(state.parts()[0][0], 2 * X)
    total = lambda x: sum(part.sum() for part in there(x)["states"][1].parts()[0])
    np.testing.assert_allclose(jax.jit(jax.grad(total))(X), [5, 5, 5])


@pytest.mark.parametrize("way", [pickle.loads, None])
def test_functions_with_such_results_are_copied(way):
    there = torch2jax(module_level)
    there(X)
    back = way(pickle.dumps(there)) if way else copy.deepcopy(there)
    np.testing.assert_allclose(back(X).keys, 2 * X)


def module_level(x):
    return Storing(x * 2, x)


class Checked(typing.NamedTuple("Checked", [("x", typing.Any)])):
    """A named tuple that converts its field."""

    def __new__(cls, x):
        return super().__new__(cls, jnp.asarray(x))


@jax.tree_util.register_pytree_node_class
class Jnp:
    def __init__(self, x):
        self.x = jnp.asarray(x)

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


@pytest.mark.parametrize("kind", [Checked, Jnp])
def test_a_container_that_makes_arrays_of_jax_is_refused_in_torch(kind):
    """Its values would have no gradient in torch."""
    there = jax2torch(lambda x: [kind(jnp.sin(x))])
    place = rf"result\[0\] of <lambda> is a {kind.__name__}, .* around arrays of torch"
    with pytest.raises(ArgumentError, match=rf"{place} \(it makes arrays of jax of them\)"):
        there(torch.tensor(X))
    with pytest.raises(ArgumentError, match=place):
        there(torch.tensor(X, requires_grad=True))


@pytest.mark.parametrize("convert", [to_jax, to_mlx])
def test_values_in_such_a_container_are_refused(convert):
    pytest.importorskip("mlx.core")
    cache = Cache(torch.tensor(X), torch.tensor(X))
    name = convert.__name__
    with pytest.raises(ArgumentError, match=rf"{name}: the value is a Cache, .*rebuilt .*TypeErr"):
        convert(cache)
    with pytest.raises(ArgumentError, match=rf"{name}: the container a\['b'\].* is a Cache"):
        convert({"a": {"b": cache}})
    assert type(convert(Storing(torch.tensor(X), torch.tensor(X)))) is Storing


def test_values_are_not_converted_back():
    with pytest.raises(ArgumentError, match=r"makes arrays of jax of them.*Pass its arrays"):
        to_torch([Jnp(jnp.asarray(X))])


def test_struct_sequences_beside_such_containers():
    """Their place is taken by named tuples, without a container of numbers on the way."""
    there = torch2jax(lambda x: (Strict(x), torch.max(x, 0)))
    strict, most = there(X)
    assert type(strict) is Strict
    assert (most.values, most.indices) == (1.5, 0)


class Strict:
    """Takes arrays alone."""

    def __init__(self, x):
        assert x.shape == (3,)
        self.x = x


torch_pytree.register_pytree_node(
    Strict,
    lambda strict: ([strict.x], None),
    lambda parts, _: Strict(*parts),
    serialized_type_name=f"{__name__}.Strict",
)


class Unknown:
    """No container that is known to anybody."""

    def __init__(self, x):
        self.x = x


@pytest.mark.parametrize("make", [Unknown, lambda x: {x}, lambda x: collections.UserList([x])])
def test_an_object_that_holds_arrays_is_refused(make):
    with pytest.raises(ArgumentError, match=r"result\[0\] of .*nor a known.*Return its arrays, or"):
        torch2jax(lambda x: [make(x)])(X)
    with pytest.raises(ArgumentError, match=r"result\[0\] of .*Return arrays and numbers only"):
        torch2jax(lambda x: [make("text")])(X)


@pytest.mark.parametrize("role", ["result", "argument", "value"])
def test_a_class_that_is_registered_after_it_was_refused(role):
    class Late(Storing):
        pass

    def use(late):
        if role == "result":
            return torch2jax(lambda x: Late(x, 2 * x))(X)
        if role == "argument":
            fn = lambda late: late.keys + late.values
            return Late(torch2jax(fn)(late) - late.values, late.values)
        return to_jax(Late(torch.tensor(X), torch.tensor(2 * X)))

    late = Late(jnp.asarray(X), jnp.asarray(2 * X))
    with pytest.raises(ArgumentError, match="Late"):
        use(late)
    torch_pytree.register_pytree_node(
        Late,
        lambda cache: cache.parts(),
        lambda parts, _: Late(*parts),
        serialized_type_name=f"{__name__}.Late.{role}",
    )
    found = use(late)
    assert type(found) is Late
    np.testing.assert_allclose(found.keys, X)
