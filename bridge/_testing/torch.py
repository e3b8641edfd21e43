"""PyTorch in tests."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.autograd.forward_ad as forward_ad

from bridge import _registry
from bridge._arrays.torch import dtype_name, transforming
from bridge._core import pytree
from bridge._core.errors import MissingFrameworkError, NoRuleError
from bridge._testing.backend import Backend

_OLD_FORM = "setup_context"
_LACKS = (
    _OLD_FORM,
    "does not have vmap support",
    "vmap: ",
    "Batching rule not implemented",
    "Nested forward mode AD is not supported",
    "derivative for ",
    "Trying to use forward AD with ",
    "You must implement either the backward or vjp method for your custom autograd.Function",
    "You must implement the jvp function for custom autograd.Function",
)


class TorchBackend(Backend):
    """PyTorch by `torch.func`, or by `torch.autograd` where that is refused.

    `torch.func` refuses an `autograd.Function` without `setup_context`, which `torch.autograd`
    takes.
    """

    name: ClassVar[str] = "torch"

    @property
    def xp(self) -> Any:
        """The namespace of array-api-compat, which has the names of torch too."""
        try:
            import array_api_compat.torch as namespace
        except ImportError as error:
            raise MissingFrameworkError(
                "xp of torch is array_api_compat.torch, and array-api-compat is not installed. "
                "Install it with: pip install 'gradbridge[testing]'"
            ) from error
        return namespace

    def grad(self, fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
        """Return the function that computes the gradient of `fn`, whose result is one number."""
        nums = argnums if isinstance(argnums, int) else tuple(argnums)
        functional = torch.func.grad(fn, argnums=nums)

        @functools.wraps(fn)
        def gradient(*args: Any) -> Any:
            try:
                return functional(*args)
            except RuntimeError as error:
                if not _is_refused(error):
                    raise
            positions = (nums,) if isinstance(nums, int) else nums
            partial = lambda *chosen: fn(*pytree.scatter(chosen, positions, args))
            gradients = _vjp_by_autograd(partial, [args[i] for i in positions], None)
            return gradients[0] if isinstance(nums, int) else gradients

        return gradient

    def vjp(self, fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> Any:
        """Return the gradients of `fn` at `primals` for cotangents like its result."""
        try:
            return torch.func.vjp(fn, *primals)[1](cotangents)
        except RuntimeError as error:
            if not _is_refused(error):
                raise
        return _vjp_by_autograd(fn, primals, cotangents)

    def jvp(self, fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """Return the tangent of the result of `fn` at `primals`, for tangents like these."""
        try:
            return torch.func.jvp(fn, tuple(primals), tuple(tangents))[1]
        except RuntimeError as error:
            if not _is_refused(error):
                raise
        return _jvp_by_autograd(fn, primals, tangents)

    def vmap(self, fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Return `fn` for a batch of examples."""
        return torch.func.vmap(fn, in_dims=in_axes)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, captured as a whole, without generated code."""
        return torch.compile(fn, fullgraph=True, backend="aot_eager")

    def own(self, x: Any) -> Any:
        """Return a clone, since torch refuses a change in place of what gradients are taken by."""
        return x.clone() if isinstance(x, torch.Tensor) else x

    def copy_to_host(self, x: Any) -> Any:
        """Return a tensor as a NumPy array, without its gradient."""
        if not isinstance(x, torch.Tensor):
            return super().copy_to_host(x)
        dense = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        plain = dense.resolve_conj().resolve_neg()
        name = dtype_name(x.dtype)
        if name.startswith(("bfloat", "float8")):  # which torch hands to NumPy as integers only
            return (
                plain.view(torch.uint8 if plain.itemsize == 1 else torch.int16).numpy().view(name)
            )
        return plain.numpy()

    def is_lack(self, error: Exception) -> bool:
        """Return True if `error` says that there is no such derivative, or no batches."""
        says_so = isinstance(error, RuntimeError) and any(text in str(error) for text in _LACKS)
        return says_so or isinstance(error, NoRuleError)


def _is_refused(error: RuntimeError) -> bool:
    """Return True if `torch.func` refuses a Function that `torch.autograd` may take."""
    return _OLD_FORM in str(error) and not transforming()


def _vjp_by_autograd(fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> Any:
    leaves, structure = _flatten(tuple(primals))
    given = None if cotangents is None else _flatten(cotangents)[0]
    # With a graph of its own, a backward pass with NumPy in it would be refused.
    create_graph = any(_requires_grad(x) for x in [*leaves, *(given or [])])
    own = [_own(x) for x in leaves]
    outputs = _flatten(fn(*pytree.unflatten(structure, own)))[0]
    cts: Sequence[Any] = [None] * len(outputs) if given is None else given
    tracked = [(y, c) for y, c in zip(outputs, cts, strict=True) if _requires_grad(y)]
    wanted = [x for x in own if _requires_grad(x)]
    gradients = iter(
        torch.autograd.grad(
            [y for y, _ in tracked],
            wanted,
            [c for _, c in tracked],
            create_graph=create_graph,
            materialize_grads=True,
        )
        if tracked
        else map(torch.zeros_like, wanted)
    )
    filled = [next(gradients) if _requires_grad(x) else torch.zeros_like(x) for x in own]
    return pytree.unflatten(structure, filled)


def _own(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as a tensor of its own that requires grad, if its dtype can."""
    if not (x.is_floating_point() or x.is_complex()):
        return x
    own = x.view_as(x)  # which keeps a tangent, as `detach` does not
    return own if own.requires_grad else own.requires_grad_()


def _jvp_by_autograd(
    fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]
) -> Any:
    leaves, structure = _flatten(tuple(primals))
    with forward_ad.dual_level():
        pairs = zip(leaves, _flatten(tuple(tangents))[0], strict=True)
        duals = [forward_ad.make_dual(x, t) for x, t in pairs]
        outputs, result = _flatten(fn(*pytree.unflatten(structure, duals)))
        found = [forward_ad.unpack_dual(y) for y in outputs]
    filled = [torch.zeros_like(y) if t is None else t for y, t in found]
    return pytree.unflatten(result, filled)


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return pytree.flatten(tree, _registry.pytree_node_functions)


def _requires_grad(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad


BACKEND = TorchBackend
