"""Functions of MLX as functions of other frameworks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from bridge._api.wrapping import wrap
from bridge._calls.wrong_framework import Direction

if TYPE_CHECKING:
    import mlx.nn
    import torch

    from bridge._calls.bridged_function import BridgedFunction
    from bridge._calls.functional import Functional

Residuals = Literal["auto", "save", "recompute"]


@overload
def mlx2torch(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: "mlx.nn.Module",
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    residuals: Residuals = ...,
    device: str | None = ...,
) -> "torch.nn.Module": ...
@overload
def mlx2torch(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    residuals: Residuals = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def mlx2torch(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    residuals: Residuals = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def mlx2torch(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    compile: bool = False,
    residuals: Residuals = "auto",
    device: str | None = None,
) -> Any:
    """An MLX function as a differentiable function of torch tensors; also a decorator.

    Derivatives of every order, forward mode and batching are MLX's own, reached through
    `torch.autograd`, `torch.func` and `torch.autograd.forward_ad`.

    Args:
        fn: A pure function written with MLX. Its arguments and results are arbitrary pytrees of
            torch or MLX. Tensors in them arrive as MLX arrays of the same shape and dtype, as do
            NumPy and MLX arrays, which get no gradient. Everything else, numbers too, arrives as
            it is. Or an `mlx.nn.Module`: see below.
        method: The method of a module to call, by name, or a function of the module and the
            arguments; by default the module itself.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        compile: Whether `mx.compile` fuses the operations of the function and of its derivatives.
            MLX 0.32 may abort at exit if several threads have called what is compiled.
        residuals: `"save"` keeps what the backward pass needs, `"recompute"` keeps the arguments
            only and runs the function again, `"auto"` chooses.
        device: `"cpu"` lets MLX take tensors of another device from the host, which copies.

    Returns:
        A function of the same signature. Its results are new tensors on the device of the
        arguments, which share memory with nothing. Of a module, a `torch.nn.Module`.

    Raises:
        ArgumentError: When called with an argument that cannot cross; the text says which.
        NoRuleError: When MLX lacks a derivative or a batched form that is asked for.

    Example:
        >>> import mlx.core as mx, torch
        >>> @mlx2torch
        ... def energy(x):
        ...     return mx.sum(mx.sin(x) ** 2)
        >>> x = torch.tensor([0.5, 1.0], requires_grad=True)
        >>> energy(x).backward()
        >>> x.grad
        tensor([0.8415, 0.9093])

    A module becomes a `torch.nn.Module`. Its parameters are copies of the arrays that the module
    trains, with their names, and its buffers copies of all other arrays; what a call changes is
    written into them. Random numbers follow from torch's generator, or from a key,
    `rng=`.

    `mx.vjp`: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.vjp.html
    """
    return wrap(
        fn,
        direction=Direction("mlx", "torch"),
        static=(static_argnums, static_argnames),
        device=device,
        options={"compile": compile, "residuals": residuals},
        method=method,
    )


@overload
def mlx2jax(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: "mlx.nn.Module",
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    device: str | None = ...,
) -> "Functional": ...
@overload
def mlx2jax(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def mlx2jax(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    compile: bool = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def mlx2jax(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    compile: bool = False,
    device: str | None = None,
) -> Any:
    """An MLX function as a differentiable function of JAX arrays; also a decorator.

    It works under `jax.jit`, `jax.grad`, `jax.vmap` and every other transformation, to any order:
    MLX computes, and derivatives are MLX's own.

    Args:
        fn: A pure function written with MLX. Its arguments and results are arbitrary pytrees of
            MLX or JAX. Arrays in them arrive as MLX arrays of the same shape and dtype, as do
            NumPy arrays, which get no gradient. Everything else, numbers too, arrives as it is. Or
            an `mlx.nn.Module`, which becomes a `Functional`.
        method: The method of a module to call, as in `mlx2torch`.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        compile: Whether `mx.compile` fuses the operations of the function and of its derivatives.
            MLX 0.32 may abort at exit if several threads have called what is compiled.
        device: `"cpu"` lets MLX take arrays of another device from the host, which copies.

    Returns:
        A function of the same signature. Its results are new arrays, which share memory with
        nothing. Of a module, a `Functional`.

    Raises:
        ArgumentError: When called with an argument or for a result that cannot cross, such as a
            float64 result while JAX is in 32-bit mode; the text says which.
        NoRuleError: When MLX lacks a derivative or a batched form that is asked for.

    Example:
        >>> import jax, jax.numpy as jnp, mlx.core as mx
        >>> @mlx2jax
        ... def energy(x):
        ...     return mx.sum(x * x * x)
        >>> jax.jit(jax.grad(energy))(jnp.array([0.5, 2.0]))
        Array([ 0.75, 12.  ], dtype=float32)

    `mx.vjp`: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.vjp.html
    """
    return wrap(
        fn,
        direction=Direction("mlx", "jax"),
        static=(static_argnums, static_argnames),
        device=device,
        options={"compile": compile, "residuals": "recompute"},
        method=method,
    )
