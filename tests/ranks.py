"""Test jobs on ranks of gloo, in processes of their own."""

import importlib
import time

import pytest

from tests.processes import use_loopback

torch = pytest.importorskip("torch")

COUNT = 2
SECONDS = 150


def run(module, folder, count=COUNT, seconds=SECONDS):
    """What each rank has found, by job: `module.JOBS` are called with the rank and a folder.

    `module.set_up`, if there is one, is called before with the same.
    """
    arguments = module, folder, count
    context = torch.multiprocessing.spawn(_work, arguments, nprocs=count, join=False)
    deadline = time.monotonic() + seconds
    while not context.join(timeout=0.2):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("the ranks hang")
    return [torch.load(f"{folder}/{rank}", weights_only=False) for rank in range(count)]


def _work(rank, name, folder, count):
    """Every job on one rank; what it gives, or why not, is left in a file."""
    use_loopback()
    module = importlib.import_module(name)
    if hasattr(module, "set_up"):
        module.set_up(rank, folder)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
    )
    found = {}
    for job_name, job in module.JOBS.items():
        try:
            found[job_name] = job(rank, folder)
        except Exception as error:  # noqa: BLE001, it is raised where the test looks
            found[job_name] = error
    torch.save(found, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def without_folder(jobs):
    """Jobs that take the rank alone, as jobs that are passed a folder too."""
    return {name: lambda rank, _, job=job: job(rank) for name, job in jobs.items()}


def of_job(ranks, job):
    """What the ranks have found, or their error."""
    for found in ranks:
        if isinstance(found[job], Exception):
            raise found[job]
    return [found[job] for found in ranks]
