"""Public names: where they say that they are from, and those that are going."""

import pickle

import pytest

import bridge

MODULES = ("nn", "rules", "testing")
# pytest adds names with an @ to the modules of what is installed with a plugin for it.
NAMES = [name for name in vars(bridge) if not name.startswith(("_", "@"))]
PUBLIC = [name for name in NAMES if name not in MODULES]
RULES = [name for name in vars(bridge.rules) if name[0].isupper()]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_from_bridge(name):
    thing = getattr(bridge, name)
    assert thing.__module__ == "bridge"
    assert pickle.loads(pickle.dumps(thing)) is thing


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_from_bridge_rules(name):
    rule = getattr(bridge.rules, name)
    assert rule.__module__ == "bridge.rules"
    assert pickle.loads(pickle.dumps(rule)) is rule


def test_a_layer_is_from_bridge_nn():
    pytest.importorskip("torch")
    assert bridge.nn.FunctionLayer.__module__ == "bridge.nn"
    assert pickle.loads(pickle.dumps(bridge.nn.FunctionLayer)) is bridge.nn.FunctionLayer


def test_the_old_name_of_a_decorator_warns():
    with pytest.warns(DeprecationWarning, match=r"bridge\.register_lowering now") as caught:
        register = bridge.torch_operator("mine.scale.default")
    assert caught[0].filename == __file__
    assert register(len) is len
