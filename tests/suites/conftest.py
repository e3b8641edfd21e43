"""Leave the suites out unless they are asked for: their records take seconds to import."""

import pytest


def pytest_ignore_collect(config):
    return None if config.getoption("markexpr") == "suites" else True


@pytest.fixture(autouse=True)
def dispatch_as_before():
    """Raise if torch dispatches otherwise after a test, and let its next tests do as before."""
    import torch

    c = torch._C
    keys = lambda: (c._dispatch_tls_local_include_set(), c._dispatch_tls_local_exclude_set())
    modes = lambda: (c._len_torch_dispatch_stack(), c._len_torch_function_stack())
    before = keys(), modes()
    yield
    after = keys(), modes()
    if after[0] != before[0]:
        c._ForceDispatchKeyGuard(*before[0]).__enter__()
    assert after == before
