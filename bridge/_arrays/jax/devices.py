"""The devices of JAX arrays, and copies from one device to another."""

from typing import Any

import jax
import numpy as np

from bridge._arrays.jax.upstream.modes import allow_transfers
from bridge._core.errors import ArgumentError, DeviceError


def gather(y: Any, device: str | None = None) -> Any:
    """Return `y` on one device, `device` or its first: DLPack exports one shard of several."""
    if not y.is_fully_addressable:
        raise ArgumentError(
            f"a JAX array, {y.dtype}{list(y.shape)}, is {_describe_spread(y)}. Gather it first: "
            f"{how_to_gather(y)}."
        )
    devices = y.sharding.device_set
    target = find_device(device) if device else min(devices, key=lambda candidate: candidate.id)
    return y if devices == {target} else jax.device_put(y, target)


def check_on_one_device(x: Any) -> None:
    """Raise if `x` is spread over several devices."""
    if len(x.sharding.device_set) > 1:
        raise ArgumentError(
            f"it is a JAX array, {x.dtype}{list(x.shape)}, {_describe_spread(x)}. Gather it: "
            f"{how_to_gather(x)}. `to_torch` alone takes the shard of each process, with mesh=."
        )


def _describe_spread(x: Any) -> str:
    manner = "replicated" if x.sharding.is_fully_replicated else "sharded"
    spec = getattr(x.sharding, "spec", type(x.sharding).__name__)
    where = "" if x.is_fully_addressable else ", some of which belong to other processes"
    count = len(x.sharding.device_set)
    return f"{manner} over {count} devices{where} ({spec})"


def how_to_gather(x: Any) -> str:
    """Return the code that gathers an array."""
    if x.is_fully_addressable:
        return "`jax.device_put(x, jax.devices()[0])`"
    if x.sharding.is_fully_replicated:
        return "`x.addressable_data(0)`"
    return "`jax.experimental.multihost_utils.process_allgather(x, tiled=True)`"


def find_device(device: str) -> Any:
    """Return the JAX device for a name like `cpu` or `cuda:0`."""
    kind, _, index = device.partition(":")
    return jax.local_devices(backend=kind)[int(index or 0)]


def free_to_move(x: Any) -> Any:
    """Return an array over memory of others as one that joins arrays on other devices.

    JAX commits it to the first device, and refuses it beside arrays that are committed elsewhere;
    what it makes of an array of NumPy goes where they are.
    """
    if jax.default_backend() != "cpu" or jax.local_device_count() == 1:
        return x
    with allow_transfers():
        return jax.numpy.asarray(np.asarray(x))


def choose_compute_device(arguments_device: str, requested: str | None) -> str:
    """Return the device to compute on; raise if JAX cannot use it."""
    name = requested or arguments_device
    try:
        find_device(name)
    except (RuntimeError, IndexError) as error:
        raise DeviceError(
            f"JAX cannot compute on {name}: {error}. Install JAX's CUDA plugin "
            '(pip install "jax[cuda13]"), or let JAX compute on the host with device="cpu", '
            "which copies arguments and results."
        ) from error
    return name


def import_buffer(buffer: Any, device: str) -> Any:
    """Return `buffer` as an array on `device`; what is no buffer, as it is."""
    if isinstance(buffer, (np.ndarray, jax.Array)):
        return jax.device_put(buffer, find_device(device))
    return jax.dlpack.from_dlpack(buffer) if hasattr(buffer, "__dlpack__") else buffer
