"""Where arrays of JAX live, and how they get elsewhere."""

from typing import Any

import jax
import numpy as np

from bridge._core.errors import ArgumentError, DeviceError


def gather(y: Any, device: str | None = None) -> Any:
    """`y` on one device, `device` or its first: of several, DLPack would hand out a part."""
    if not y.is_fully_addressable:
        raise ArgumentError(
            f"a JAX array, {y.dtype}{list(y.shape)}, is {describe_devices(y)}, some of which "
            "belong to other processes. Gather it first: "
            "`jax.experimental.multihost_utils.process_allgather(array, tiled=True)`."
        )
    devices = y.sharding.device_set
    target = find_device(device) if device else min(devices, key=lambda one: one.id)
    return y if devices == {target} else jax.device_put(y, target)


def describe_devices(y: Any) -> str:
    """How an array lies on several devices, in words."""
    return f"spread over {len(y.sharding.device_set)} devices"


def find_device(device: str) -> Any:
    """JAX's name for `cpu` or `cuda:0`."""
    kind, _, index = device.partition(":")
    return jax.local_devices(backend=kind)[int(index or 0)]


def compute_device(device: str, asked: str | None) -> str:
    """The device to compute on for arrays that live on `device`."""
    wanted = asked or device
    try:
        find_device(wanted)
    except (RuntimeError, IndexError) as error:
        raise DeviceError(
            f"JAX cannot compute on {wanted}: {error}. Install JAX's CUDA plugin "
            '(pip install "jax[cuda13]"), or let JAX compute on the host with device="cpu", '
            "which copies arguments and results."
        ) from error
    return wanted


def put_on_device(x: Any, device: str) -> Any:
    """`x`, a buffer, as an array there; what is no buffer stays as it is."""
    if isinstance(x, (np.ndarray, jax.Array)):
        return jax.device_put(x, find_device(device))
    return jax.dlpack.from_dlpack(x) if hasattr(x, "__dlpack__") else x
