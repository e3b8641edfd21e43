"""The examples in the docstrings of public functions run, and print what they say."""

import doctest
import inspect
import re

import pytest

import bridge
from bridge import rules, testing

PUBLIC = {name: getattr(bridge, name) for name in dir(bridge) if not name.startswith("_")}
PUBLIC |= {name: getattr(testing, name) for name in dir(testing) if not name.startswith("_")}
PUBLIC["array"] = testing.Backend.array
PUBLIC["explain"] = bridge.BridgedFunction.explain
PUBLIC["to_nnx"], PUBLIC["to_equinox"] = bridge.Functional.to_nnx, bridge.Functional.to_equinox
PUBLIC |= {name: getattr(rules, name) for name in dir(rules) if not name.startswith("_")}
EXAMPLES = {
    name: found
    for name, thing in PUBLIC.items()
    for found in doctest.DocTestFinder(recurse=False).find(thing, name, globs={name: thing})
    if found.examples
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    text = name + "".join(example.source for example in EXAMPLES[name].examples)
    needed = {"torch": "torch", "jax": "jax", "mlx": "mlx.core", "flax": "flax", "optax": "optax"}
    for framework, module in {**needed, "equinox": "equinox"}.items():
        if framework in text:
            pytest.importorskip(module)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(EXAMPLES[name]).failed == 0


def test_public_functions_have_examples():
    assert {"jax2torch", "torch2mlx", "to_torch", "check_gradients", "check_same"} <= set(EXAMPLES)


WRAPPERS = [name for name in dir(bridge) if re.fullmatch(r"[a-z]+2[a-z]+", name)]


@pytest.mark.parametrize("name", WRAPPERS)
def test_options_are_all_explained(name):
    """`docs/generate/options.py` makes the table of options of what the docstrings say."""
    wrapper = getattr(bridge, name)
    explained = re.findall(r"^    (\w+): .", inspect.getdoc(wrapper), re.MULTILINE)
    parameters = inspect.signature(wrapper).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert options
    assert set(options) <= set(explained)
