"""Other libraries between JAX and torch, each imported only if it is there."""

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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


def _wrap_torch2jax(function: Function) -> Function:
    """With `function` of one array of float32, which it returns another like."""
    library = importlib.import_module("wrap_torch2jax")  # the first time it compiles for a minute

    def call(x: jax.Array) -> Any:
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return library.torch2jax(function, like, output_shapes=like)(x)

    call(jnp.ones(1))
    return call


_Libraries = dict[str, tuple[str, Callable[[Function], Function]]]
_LIBRARIES: _Libraries = {
    "tensorcircuit-ng": ("tensorcircuit", _tensorcircuit),
    "torch-jax-interop": ("torch_jax_interop", _torch_jax_interop),
    "torchax": ("torchax", _torchax),
    "jax2torch (PyPI)": ("jax2torch", _jax2torch),
}
_IN_JAX: _Libraries = {"wrap-torch2jax": ("wrap_torch2jax", _wrap_torch2jax)}

NAMES, NAMES_IN_JAX = tuple(_LIBRARIES), tuple(_IN_JAX)


def peers(function: Function, *, take_part: bool) -> tuple[dict[str, Function], dict[str, str]]:
    """`function` of JAX wrapped by each peer, and for each that cannot, why."""
    return _wrapped(function, _LIBRARIES if take_part else {})


def peers_in_jax(
    function: Function, *, take_part: bool
) -> tuple[dict[str, Function], dict[str, str]]:
    """`function` of torch, from one float32 tensor to one like it, wrapped likewise."""
    return _wrapped(function, _IN_JAX if take_part else {})


def _wrapped(
    function: Function, libraries: _Libraries
) -> tuple[dict[str, Function], dict[str, str]]:
    wrapped, missing = {}, {}
    for name, (module, wrap) in libraries.items():
        if importlib.util.find_spec(module) is None:
            missing[name] = "not installed"
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # one peer advises on import
                wrapped[name] = wrap(function)
        except Exception as error:  # noqa: BLE001, whatever a peer raises is its result
            missing[name] = f"{type(error).__name__}: {error}"
    return wrapped, missing
