"""Test functions in processes of their own, and the memory that they take there."""

import contextlib
import ctypes
import gc
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BITS_OF_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory is given back at once
STATUS = pathlib.Path("/proc/self/status")
LARGE = 1500  # megabytes


def fresh_process(function, *args, timeout=120):
    """What `function`, of a test module, returns in a process that has run nothing else."""
    code = (
        "import importlib, json, sys\n"
        "module, name, *args = json.loads(sys.argv[1])\n"
        "print(json.dumps(getattr(importlib.import_module(module), name)(*args)))"
    )
    call = json.dumps([function.__module__, function.__name__, *args])
    result = subprocess.run(
        [sys.executable, "-c", code, call],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, **BITS_OF_MALLOC},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def use_loopback():
    """Let gloo work on a machine without a network, which has no name to look up."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def resident():
    """Megabytes of memory that this process takes, without what it could give back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return taken()


def taken():
    """Megabytes of memory that this process takes."""
    return _megabytes("VmRSS")


def peak():
    """Megabytes of memory that this process has ever taken."""
    # The maximum of getrusage begins with that of the parent, which may be larger.
    return _megabytes("VmHWM")


def forget_programs():
    """Forget what is compiled in a process that has grown large.

    JAX keeps each program that it has compiled, and workers that run all tests grow to 4 GB.
    """
    if not is_known or taken() < LARGE:
        return
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()
    if mx := sys.modules.get("mlx.core"):
        mx.clear_cache()
    resident()  # which gives memory back


def _megabytes(name):
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    return int(kilobytes) / 1024


is_known = STATUS.exists() and "VmHWM" in STATUS.read_text()
needs_proc = pytest.mark.skipif(not is_known, reason="memory is read from /proc")
