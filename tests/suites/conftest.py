"""Leave the suites out unless they are asked for: their records take seconds to import."""


def pytest_ignore_collect(config):
    return None if config.getoption("markexpr") == "suites" else True
