"""Functions of JAX as functions of other frameworks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from bridge._api.module_types import JaxModule
from bridge._api.wrapping import wrap
from bridge._calls.wrong_framework import Direction
from bridge._core.errors import OptionError

if TYPE_CHECKING:
    import mlx.nn
    import torch

    from bridge._calls.bridged_function import BridgedFunction

Residuals = Literal["auto", "save", "recompute"]
Lower = Literal["aten"] | None


@overload
def jax2torch(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: JaxModule,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
    lower: Lower = ...,
    device: str | None = ...,
) -> "torch.nn.Module": ...
@overload
def jax2torch(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
    lower: Lower = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def jax2torch(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
    lower: Lower = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def jax2torch(  # noqa: PLR0913, the options of `jax.jit` and of the crossing
    fn: Any = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    jit: bool = True,
    x64: bool | None = None,
    residuals: Residuals = "auto",
    lower: Lower = None,
    device: str | None = None,
) -> Any:
    """A JAX function as a differentiable function of torch tensors; also a decorator.

    Derivatives of every order, forward mode and batching are JAX's own, reached through
    `torch.autograd`, `torch.func` and `torch.autograd.forward_ad`. The function is traced once for
    each structure, shape, dtype and static value of its arguments, and compiled by `jax.jit`.

    Args:
        fn: A pure function written with JAX. Its arguments and results are arbitrary pytrees of
            torch or JAX. Tensors in them arrive as JAX arrays of the same shape and dtype, as
            do NumPy and JAX arrays, which get no gradient. Numbers are traced as in `jax.jit`;
            `bool`, `str`, `None` and other hashable values are static. Arrays that it closes over
            are constants. Or a module: see below.
        method: The method of a module to call, by name, or a function of the module and the
            arguments; by default the module itself.
        static_argnums: Positions of arguments whose values the function needs, as in `jax.jit`.
        static_argnames: Their names, as in `jax.jit`.
        jit: `False` reruns the function on each call, with values in it: for functions whose
            Python looks at values. Derivatives then recompute.
        x64: Whether to compute in JAX's 64-bit mode. By default a float64 or complex128
            argument asks for it, and otherwise the global flag decides. Outside of it int64
            arguments are computed with as int32, as everywhere in JAX: values that do not fit are
            refused, but arithmetic wraps at 32 bits: `sum`, `cumsum` and products that may exceed
            them want `x64=True`. Integer results then come back as int64. A NumPy scalar does not
            ask for 64 bits, and is an array of its dtype, as in `jax.jit`.
        residuals: `"save"` keeps what the backward pass needs, `"recompute"` keeps the arguments
            only and runs the function again, `"auto"` takes the way that a model of the costs
            finds fastest; the `repr` of the result says which. It has a third way, `gradient`:
            where the result that is differentiated is one real number, as a loss is, its gradient
            is computed along with it, as by `jax.value_and_grad`, and multiplied in the backward
            pass. That work is lost if no backward pass follows: use `torch.no_grad()`.
        lower: `"aten"` makes operators of torch of the trace, which torch then computes, compiles
            and exports like any others; JAX only makes the trace and those of derivatives. By
            default JAX computes.
        device: Where JAX computes, `"cpu"` or `"cuda:0"`; by default where the tensors are.

    Returns:
        A function of the same signature. Its results are new tensors on the device of the
        arguments, which share memory with nothing. Of a module, a `torch.nn.Module`.

    Raises:
        ArgumentError: When called with an argument that cannot cross; the text says which.
        RangeError: When an int64 argument does not fit into int32 outside of 64-bit mode.
        NoRuleError: When `lower="aten"` meets a primitive that is not of the vocabulary.
        DeviceError: When JAX cannot compute where the tensors are.

    Example:
        >>> import jax.numpy as jnp, torch
        >>> @jax2torch
        ... def energy(x):
        ...     return jnp.sum(jnp.sin(x) ** 2)
        >>> x = torch.tensor([0.5, 1.0], requires_grad=True)
        >>> energy(x).backward()
        >>> x.grad
        tensor([0.8415, 0.9093])

    A callable pytree with arrays, such as a module of Equinox, a module of Flax, or a `Functional`
    becomes a `torch.nn.Module`, whose parameters and buffers are copies with the names of the
    original. Its random numbers follow from torch's generator, or from a key, `rng=`.

    `jax.jit`: https://docs.jax.dev/en/latest/_autosummary/jax.jit.html
    """
    if lower is not None and device is not None:
        raise OptionError(
            f"device={device!r} says where JAX computes, and with lower={lower!r} torch computes, "
            "where the tensors are. Leave one of them out."
        )
    return wrap(
        fn,
        direction=Direction("jax", "torch"),
        static=(static_argnums, static_argnames),
        device=device,
        options={"jit": jit, "x64": x64, "residuals": residuals, **_lowered(lower)},
        method=method,
    )


@overload
def jax2mlx(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: JaxModule,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
) -> "mlx.nn.Module": ...
@overload
def jax2mlx(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
) -> "BridgedFunction": ...
@overload
def jax2mlx(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: Residuals = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def jax2mlx(
    fn: Any = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    jit: bool = True,
    x64: bool | None = None,
    residuals: Residuals = "auto",
) -> Any:
    """A JAX function as a differentiable function of MLX arrays; also a decorator.

    It works under `mx.grad`, `mx.value_and_grad`, `mx.vjp`, `mx.jvp`, `mx.vmap` and
    `mx.checkpoint`, nested to any order: JAX computes, and derivatives are JAX's own. The function
    is traced once for each structure, shape, dtype and static value of its arguments, and compiled
    by `jax.jit`.

    Args:
        fn: A pure function written with JAX. Its arguments and results are arbitrary pytrees of
            MLX or JAX. Arrays of MLX in them arrive as JAX arrays of the same shape and dtype, as
            do NumPy and JAX arrays, which get no gradient. Numbers are traced as in `jax.jit`;
            `bool`, `str`, `None` and other hashable values are static. Or a module.
        method: The method of a module to call, as in `jax2torch`.
        static_argnums: Positions of arguments whose values the function needs, as in `jax.jit`.
        static_argnames: Their names, as in `jax.jit`.
        jit: `False` reruns the function on each call, with values in it: for functions whose
            Python looks at values. Derivatives then recompute.
        x64: Whether to compute in JAX's 64-bit mode, as in `jax2torch`.
        residuals: What a first derivative keeps of the call, as in `jax2torch`; derivatives that
            are batched recompute.

    Returns:
        A function of the same signature. Its results are new arrays, which share memory with
        nothing. `mx.compile` cannot call it: what it compiles raises when it is evaluated. Compile
        the functions around the call. Of a module, an `mlx.nn.Module`.

    Raises:
        ArgumentError: When called with an argument or for a result that cannot cross, such as a
            complex128 result; the text says which.
        RangeError: When an int64 argument does not fit into int32 outside of 64-bit mode.

    Example:
        >>> import jax.numpy as jnp, mlx.core as mx
        >>> @jax2mlx
        ... def energy(x):
        ...     return jnp.sum(jnp.sin(x) ** 2)
        >>> mx.grad(energy)(mx.array([0.5, 1.0]))
        array([0.841471, 0.909297], dtype=float32)

    A module becomes an `mlx.nn.Module`, whose parameters and buffers are copies with the names of
    the original. Buffers are frozen, and what a call changes is written to them. Random numbers
    follow from the key of `mx.random`, or from a key, `rng=`, which `mx.checkpoint` needs.

    `mx.custom_function`: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.custom_function.html
    """
    return wrap(
        fn,
        direction=Direction("jax", "mlx"),
        static=(static_argnums, static_argnames),
        device=None,
        options={"jit": jit, "x64": x64, "residuals": residuals},
        method=method,
    )


def _lowered(lower: Lower) -> dict[str, Any]:
    """Return the option if it is used, so that it is shown and pickled only then."""
    return {} if lower is None else {"lower": lower}
