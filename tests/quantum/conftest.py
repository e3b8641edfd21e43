"""Leave these tests out unless they are asked for: the simulators take seconds to import."""

import pytest

FLAGS = ("jax_enable_x64", "jax_default_matmul_precision")
# What they call that is deprecated is not for us to mend.
SIMULATORS = "(pennylane|pennylane_lightning|tensorcircuit|qujax|dynamiqs|qiskit|cirq|piquasso)"


def pytest_ignore_collect(config):
    return None if config.getoption("markexpr") == "quantum" else True


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("quantum"):
            item.add_marker(pytest.mark.filterwarnings(rf"ignore:::{SIMULATORS}(\.|$)"))


@pytest.fixture(autouse=True)
def flags_as_before():
    """Put back the settings of JAX that TensorCircuit and dynamiqs change for everybody."""
    import jax

    before = {name: getattr(jax.config, name) for name in FLAGS}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
