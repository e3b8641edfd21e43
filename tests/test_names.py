"""Public names: where they say that they are from, and those that are going."""

import pickle

import pytest

import bridge

PUBLIC = [name for name in vars(bridge) if not name.startswith("_") and name != "testing"]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_from_bridge(name):
    thing = getattr(bridge, name)
    assert thing.__module__ == "bridge"
    assert pickle.loads(pickle.dumps(thing)) is thing


def test_the_old_name_of_a_decorator_warns():
    with pytest.warns(DeprecationWarning, match=r"bridge\.register_lowering now") as caught:
        register = bridge.torch_operator("mine.scale.default")
    assert caught[0].filename == __file__
    assert register(len) is len
