"""Functions of one framework as functions of another."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, overload

from bridge import _registry, _transfer
from bridge._call import BridgedFunction
from bridge._errors import OptionError
from bridge._module import BridgedModule


@overload
def jax2torch(
    fn: Callable[..., Any],
    /,
    *,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: str = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def jax2torch(
    fn: None = None,
    /,
    *,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    jit: bool = ...,
    x64: bool | None = ...,
    residuals: str = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def jax2torch(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    jit: bool = True,
    x64: bool | None = None,
    residuals: str = "auto",
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
            `bool`, `str`, `None` and other hashable values are static.
        static_argnums: Positions of arguments whose values the function needs, as in `jax.jit`.
        static_argnames: Their names, as in `jax.jit`.
        jit: `False` runs the function anew on each call, with values in it: for functions whose
            Python looks at values. Derivatives then recompute.
        x64: Whether to compute in JAX's 64-bit mode. By default a float64 or complex128
            argument asks for it, and otherwise the global flag decides. Outside of it int64
            arguments are computed with as int32, as everywhere in JAX: values that do not fit are
            refused, but arithmetic wraps at 32 bits. Integer results then come back as int64.
        residuals: `"save"` keeps what the backward pass needs, `"recompute"` keeps the arguments
            only and runs the function again, `"auto"` takes the way that a model of the costs
            finds fastest; the `repr` of the result says which. It has a third way, `gradient`:
            where the result that is differentiated is one real number, as a loss is, its gradient
            is computed along with it, as by `jax.value_and_grad`, and multiplied in the backward
            pass. That work is lost if no backward pass follows: use `torch.no_grad()`.
        device: Where JAX computes, `"cpu"` or `"cuda:0"`; by default where the tensors are.

    Returns:
        A function of the same signature. Its results are new tensors on the device of the
        arguments, which share memory with nothing.

    Raises:
        ArgumentError: When called with an argument that cannot cross; the text says which.
        RangeError: When an int64 argument does not fit into int32 outside of 64-bit mode.
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

    `jax.jit`: https://docs.jax.dev/en/latest/_autosummary/jax.jit.html
    """
    make = functools.partial(
        BridgedFunction,
        direction=("jax", "torch"),
        static=(_sequence(static_argnums), _sequence(static_argnames)),
        device=device,
        options={"jit": jit, "x64": x64, "residuals": residuals},
    )
    return make if fn is None else make(fn)


@overload
def torch2jax(
    fn: Callable[..., Any],
    /,
    *,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: str = ...,
    device: str | None = ...,
) -> "BridgedFunction": ...
@overload
def torch2jax(
    fn: None = None,
    /,
    *,
    static_argnums: int | Sequence[int] = ...,
    static_argnames: str | Sequence[str] = ...,
    capture: str = ...,
    device: str | None = ...,
) -> Callable[[Callable[..., Any]], "BridgedFunction"]: ...
def torch2jax(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    capture: str = "auto",
    device: str | None = None,
) -> Any:
    """A torch function as a differentiable function of JAX arrays; also a decorator.

    It works under `jax.jit`, `jax.grad`, `jax.vmap` and every other transformation, to any order:
    torch computes, and derivatives are torch's own. The function is captured once for each
    structure, shape, dtype and static value of its arguments.

    Args:
        fn: A pure function written with torch. Its arguments and results are arbitrary pytrees of
            torch or JAX. Arrays in them arrive as tensors of the same shape and dtype, as do
            NumPy arrays, which get no gradient. Everything else, numbers too, arrives as it is.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        capture: `"auto"` makes a graph of the function, and where it looks at values, runs it anew
            on each call and for each derivative, with a warning; `"require"` refuses such a
            function, and `"never"` always runs it anew.
        device: Where torch computes, `"cpu"` or `"cuda:0"`; by default where the arrays are.

    Returns:
        A function of the same signature. Its results are new arrays, which share memory with
        nothing.

    Raises:
        ArgumentError: When called with an argument or for a result that cannot cross, such as a
            float64 result while JAX is in 32-bit mode; the text says which.
        NoRuleError: When torch lacks a derivative or a batched form that is asked for.
        NoValuesError: When `capture="require"`, and the function looks at values.

    Example:
        >>> import jax, jax.numpy as jnp, torch
        >>> @torch2jax
        ... def energy(x):
        ...     return torch.sum(torch.sin(x) ** 2)
        >>> jax.jit(jax.grad(energy))(jnp.array([0.5, 1.0]))
        Array([0.841471  , 0.90929747], dtype=float32)

    `torch.func`: https://docs.pytorch.org/docs/stable/func.html
    """
    make = functools.partial(
        _function_or_module,
        direction=("torch", "jax"),
        static=(_sequence(static_argnums), _sequence(static_argnames)),
        device=device,
        options={"capture": capture},
    )
    return make if fn is None else make(fn)


def _function_or_module(fn: Any, *, direction: tuple[str, str], **how: Any) -> Any:
    home, away = direction
    if not _registry.source(home).is_module(fn):
        return BridgedFunction(fn, direction=direction, **how)
    if any(how["static"]):
        raise OptionError(
            "a module has no static arguments: numbers, strings and other values that are no "
            "arrays reach it as they are."
        )
    wide = _registry.away(away).holds("int64")
    apply, modes, *values = _registry.source(home).taken_apart(fn, wide=wide)
    apply.__name__ = apply.__qualname__ = type(fn).__name__
    how["static"] = ((0,), ())
    function = BridgedFunction(apply, direction=direction, **how)
    params, buffers = _transfer.convert(values, away)
    return BridgedModule(fn, function, modes, params, buffers)


def _sequence(one_or_more: Any) -> Sequence[Any]:
    return (one_or_more,) if isinstance(one_or_more, (int, str)) else tuple(one_or_more)
