"""Test jobs on two ranks of gloo, in processes of their own."""

import importlib
import os
import sys
import time

import pytest

torch = pytest.importorskip("torch")

COUNT = 2
SECONDS = 150


def run(module, folder):
    """What each rank has found, by job: `module.JOBS` are called with the rank and a folder."""
    context = torch.multiprocessing.spawn(_work, (module, folder), nprocs=COUNT, join=False)
    deadline = time.monotonic() + SECONDS
    while not context.join(timeout=0.2):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks hang")
    return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(COUNT)]


def _work(rank, module, folder):
    """Every job on one rank; what it gives, or why not, is left in a file."""
    if sys.platform == "linux":  # a machine without a network has no name to look up
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=COUNT
    )
    found = {}
    for name, job in importlib.import_module(module).JOBS.items():
        try:
            found[name] = job(rank, folder)
        except Exception as error:  # noqa: BLE001, it is raised where the test looks
            found[name] = error
    torch.save(found, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def of_job(ranks, job):
    """What the ranks have found, or their error."""
    for found in ranks:
        if isinstance(found[job], Exception):
            raise found[job]
    return [found[job] for found in ranks]
