"""Functions of PyTorch as functions of other frameworks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from bridge._api.wrapping import wrap
from bridge._calls.wrong_framework import Direction
from bridge._core.errors import OptionError

if TYPE_CHECKING:
    import mlx.nn
    import torch

    from bridge._calls.bridged_function import BridgedFunction
    from bridge._calls.functional import Functional

Capture = Literal["auto", "require", "never"]
Lower = Literal["ffi", "xla"]
Integers = Literal["as they are", "int64"]


@overload
def torch2jax(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: "torch.nn.Module",
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    lower: Lower = ...,
    integers: Integers = ...,
    device: str | None = ...,
) -> "Functional": ...
@overload
def torch2jax(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    lower: Lower = ...,
    integers: Integers = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def torch2jax(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    lower: Lower = ...,
    integers: Integers = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def torch2jax(  # noqa: PLR0913, the options of `jax.jit` and of the crossing
    fn: Callable[..., Any] | None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    capture: Capture = "auto",
    lower: Lower = "ffi",
    integers: Integers = "as they are",
    device: str | None = None,
) -> Any:
    """A torch function as a differentiable function of JAX arrays; also a decorator.

    It works under `jax.jit`, `jax.grad`, `jax.vmap` and every other transformation, to any order:
    torch computes, and derivatives are torch's own. The function is captured once for each
    structure, shape, dtype and static value of its arguments. Tensors that it captures are read on
    each call: change none of them between a call and its derivative.

    Args:
        fn: A pure function written with torch. Its arguments and results are arbitrary pytrees of
            torch or JAX. Arrays in them arrive as tensors of the same shape and dtype, as do
            NumPy arrays, which get no gradient. Everything else, numbers too, arrives as it is. Or
            a `torch.nn.Module`, which becomes a `Functional`.
        method: The method of a module to call, by name, or a function of the module and the
            arguments; by default the module itself.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        capture: `"auto"` makes a graph of the function, and where it looks at values, reruns it
            on each call, derivative and example of a batch, with a warning; `"require"` refuses
            such a function, and `"never"` always reruns it. While a graph is made,
            `torch.compiler.is_compiling()` is true, by which many models avoid to look at values.
        lower: `"ffi"` lets torch compute, called by XLA; `"xla"` compiles the captured graph with
            what is around it, so that XLA fuses, partitions and exports it, and torch computes
            nothing. Tensors that the function closes over are then constants, random numbers are
            those of `jax.random`, matrix products have the precision that JAX is set to, and what
            torch finds out by values raises no error: an index out of bounds reads NaN, or the
            least integer, a singular matrix has infinite or NaN results, and integers of 64 bits
            are refused in 32-bit mode.
        integers: `"int64"` lets int32 and uint32 arrays among the arguments arrive as int64, which
            is what `torch.take` and the labels of `torch.nn.functional.cross_entropy` have to be
            and JAX has in 64-bit mode only. Parameters and buffers of a module keep their dtypes.
        device: Where torch computes, `"cpu"` or `"cuda:0"`; by default where the arrays are.

    Returns:
        A function of the same signature. Its results are new arrays, which share memory with
        nothing. While JAX is in 32-bit mode, integers of 64 bits come as 32, and a call fails, with
        the text of a `RangeError`, if they do not fit.

    Raises:
        ArgumentError: When called with an argument or for a result that cannot cross, such as a
            float64 result while JAX is in 32-bit mode; the text says which.
        NoRuleError: When torch lacks a derivative or a batched form that is asked for, or when
            `lower="xla"` meets an operator without a lowering, which `bridge.register_lowering`
            supplies.
        NoValuesError: When `capture="require"` or `lower="xla"`, and the function looks at values.

    Example:
        >>> import jax, jax.numpy as jnp, torch
        >>> @torch2jax
        ... def energy(x):
        ...     return torch.sum(torch.sin(x) ** 2)
        >>> jax.jit(jax.grad(energy))(jnp.array([0.5, 1.0]))
        Array([0.841471  , 0.90929747], dtype=float32)

    `torch.func`: https://docs.pytorch.org/docs/stable/func.html
    """
    if lower == "xla" and device is not None:
        raise OptionError(
            f'device={device!r} says where torch computes, and with lower="xla" XLA computes, '
            "where the arrays are. Leave one of them out."
        )
    return wrap(
        fn,
        direction=Direction("torch", "jax"),
        static=(static_argnums, static_argnames),
        device="cpu" if lower == "xla" else device,
        options={"capture": capture, "lower": lower, **_changed(integers)},
        method=method,
    )


@overload
def torch2mlx(  # pyright: ignore[reportOverlappingOverload], a module is callable too
    fn: "torch.nn.Module",
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    integers: Integers = ...,
) -> "mlx.nn.Module": ...
@overload
def torch2mlx(
    fn: Callable[..., Any],
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    integers: Integers = ...,
) -> "BridgedFunction": ...
@overload
def torch2mlx(
    fn: None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = ...,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: Capture = ...,
    integers: Integers = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def torch2mlx(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    method: str | Callable[..., Any] | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    capture: Capture = "auto",
    integers: Integers = "as they are",
) -> Any:
    """A torch function as a differentiable function of MLX arrays; also a decorator.

    It works under `mx.grad`, `mx.value_and_grad`, `mx.vjp`, `mx.jvp`, `mx.vmap` and
    `mx.checkpoint`, nested to any order: torch computes, and derivatives are torch's own. The
    function is captured once for each structure, shape, dtype and static value of its arguments.
    Tensors that it captures are read on each call: change none between a call and its derivative.

    Args:
        fn: A pure function written with torch. Its arguments and results are arbitrary pytrees of
            torch or MLX. Arrays of MLX in them arrive as tensors of the same shape and dtype, as do
            NumPy arrays, which get no gradient. Everything else, numbers too, arrives as it is. Or
            a `torch.nn.Module`: see below.
        method: The method of a module to call, by name, or a function of the module and the
            arguments; by default the module itself.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        capture: `"auto"` makes a graph of the function, and where it looks at values, reruns it
            on each call, derivative and example of a batch, with a warning; `"require"` refuses
            such a function, and `"never"` always reruns it. While a graph is made,
            `torch.compiler.is_compiling()` is true, by which many models avoid to look at values.
        integers: `"int64"` lets int32 and uint32 arrays among the arguments arrive as int64, which
            is what `torch.take` and the labels of `torch.nn.functional.cross_entropy` have to be.
            Parameters and buffers of a module keep their dtypes.

    Returns:
        A function of the same signature. Its results are new arrays, which share memory with
        nothing. `mx.compile` cannot call it: what it compiles raises when it is evaluated. Compile
        the functions around the call. Of a module, an `mlx.nn.Module`.

    Raises:
        ArgumentError: When called with an argument or for a result that cannot cross, such as a
            complex128 result; the text says which.
        NoRuleError: When torch lacks a derivative or a batched form that is asked for.
        NoValuesError: When `capture="require"`, and the function looks at values.

    Example:
        >>> import mlx.core as mx, torch
        >>> @torch2mlx
        ... def energy(x):
        ...     return torch.sum(torch.sin(x) ** 2)
        >>> mx.grad(energy)(mx.array([0.5, 1.0]))
        array([0.841471, 0.909297], dtype=float32)

    A module becomes an `mlx.nn.Module`, whose parameters and buffers are copies with the names of
    the original, so that files of weights fit both. Buffers are frozen, and what a call changes is
    written to them. Random numbers follow from the key of `mx.random`, or from a key, `rng=`,
    which `mx.checkpoint` needs.

    `mx.custom_function`: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.custom_function.html
    """
    return wrap(
        fn,
        direction=Direction("torch", "mlx"),
        static=(static_argnums, static_argnames),
        device=None,
        options={"capture": capture, **_changed(integers)},
        method=method,
    )


def _changed(integers: Integers) -> dict[str, Any]:
    """Return the option unless it has its default, which is not shown in a `repr`."""
    return {} if integers == "as they are" else {"integers": integers}
