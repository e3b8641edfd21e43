"""What the oldest versions cannot do by themselves, with the versions that were seen to."""

import importlib.metadata

import pytest


def older(package, *version):
    """Return True if an older version of this package than `version` is installed."""
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, installed.split(".")[: len(version)])) < version


OLDER_TORCH = older("torch", 2, 13)
# Not run: its errors leave torch's dispatch as it was within.
NEWER_DYNAMO = pytest.mark.xfail(
    OLDER_TORCH,
    reason="Dynamo of torch 2.11 looks into no dataclasses and objects, nor into inference mode",
    run=False,
)
