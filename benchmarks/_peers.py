"""Other libraries that call JAX functions from torch, each imported only if it is there."""

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import jax
import torch

Function = Callable[..., Any]


def _tensorcircuit(function: Function) -> Function:
    tensorcircuit = importlib.import_module("tensorcircuit")
    tensorcircuit.set_backend("jax")
    return tensorcircuit.interfaces.torch_interface(function, jit=True)


def _torch_jax_interop(function: Function) -> Function:
    interop = importlib.import_module("torch_jax_interop")
    jitted = jax.jit(function)
    return interop.WrappedJaxFunction(lambda _, *xs: jitted(*xs), ())


def _torchax(function: Function) -> Function:
    interop = importlib.import_module("torchax.interop")
    mappings = importlib.import_module("torchax.ops.mappings")

    def call(inner: Function, *args: Any) -> Any:
        """A call with plain tensors, where torchax itself takes only its own kind."""
        inside = jax.tree.map(lambda x: mappings.t2j(x) if isinstance(x, torch.Tensor) else x, args)
        return jax.tree.map(mappings.j2t, inner(*inside))

    return interop.j2t_autograd(jax.jit(function), call_jax=call)


def _jax2torch(function: Function) -> Function:
    return importlib.import_module("jax2torch").jax2torch(jax.jit(function))


_LIBRARIES: dict[str, tuple[str, Callable[[Function], Function]]] = {
    "tensorcircuit-ng": ("tensorcircuit", _tensorcircuit),
    "torch-jax-interop": ("torch_jax_interop", _torch_jax_interop),
    "torchax": ("torchax", _torchax),
    "jax2torch (PyPI)": ("jax2torch", _jax2torch),
}

NAMES = tuple(_LIBRARIES)


def peers(function: Function, *, take_part: bool) -> tuple[dict[str, Function], dict[str, str]]:
    """`function` wrapped by each peer, and for each that cannot, why."""
    wrapped, missing = {}, {}
    for name, (module, wrap) in _LIBRARIES.items() if take_part else ():
        if importlib.util.find_spec(module) is None:
            missing[name] = "not installed"
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # one peer advises on import
                wrapped[name] = wrap(function)
        except Exception as error:  # noqa: BLE001, whatever a peer raises is its result
            missing[name] = f"{type(error).__name__}: {error}"
    return wrapped, missing
