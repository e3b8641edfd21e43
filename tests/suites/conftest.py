"""Leave the suites out unless they are asked for: their records take seconds to import."""

import pytest


def pytest_ignore_collect(config):
    return None if config.getoption("markexpr") == "suites" else True


@pytest.fixture(autouse=True)
def dispatch_as_before():
    """Raise if torch dispatches otherwise after a test, where its next tests would fail."""
    import torch

    state = lambda: (
        torch._C._dispatch_tls_local_exclude_set().raw_repr(),
        torch._C._dispatch_tls_local_include_set().raw_repr(),
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
    )
    before = state()
    yield
    assert state() == before
