"""Functions on NumPy arrays, which have no autodiff, as functions of the frameworks."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypedDict, Unpack, overload

from bridge._api.wrapping import wrap
from bridge._calls.black_box_function import BlackBoxFunction
from bridge._calls.wrong_framework import Direction
from bridge._core.gradient_rules import Rule

Gradient = Rule | Mapping[str, Rule] | None
Decorator = Callable[[Callable[..., Any]], BlackBoxFunction]


class _Options(TypedDict, total=False):
    gradient: Gradient
    vectorized: bool
    batch_size: int | None
    executor: Executor | None
    dtype: Any
    out: Any
    max_points: int | None
    static_argnums: int | Sequence[int]
    static_argnames: str | Sequence[str]


class _OptionsWithDevice(_Options, total=False):
    device: str | None


@overload
def numpy2torch(
    fn: Callable[..., Any],
    /,
    **options: Unpack[_OptionsWithDevice],
) -> BlackBoxFunction: ...
@overload
def numpy2torch(
    fn: None = None,
    /,
    **options: Unpack[_OptionsWithDevice],
) -> Decorator: ...
def numpy2torch(  # noqa: PLR0913, options by keyword
    fn: Callable[..., Any] | None = None,
    /,
    *,
    gradient: Gradient = None,
    vectorized: bool = False,
    batch_size: int | None = None,
    executor: Executor | None = None,
    dtype: Any = None,
    out: Any = None,
    max_points: int | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    device: str | None = None,
) -> Any:
    """A function on NumPy arrays as a differentiable function of torch tensors; also a decorator.

    Its derivatives follow from its values, or from code of yours, by a rule of `bridge.rules`,
    through `torch.autograd`, `torch.func` and `torch.autograd.forward_ad`, in every order and in
    batches. All values that a derivative needs are computed at once.

    Args:
        fn: A function whose arguments and results are arbitrary pytrees. Tensors in them arrive as
            NumPy arrays of the same shape and dtype, as copies that it may change and keep.
            Everything else, numbers too, arrives as it is. It returns arrays, NumPy scalars and
            Python numbers; Python floats take the precision of the arguments. Where it has a
            keyword-only parameter `rng`, it gets a `numpy.random.Generator`, which follows from a
            key, `f(x, rng=key)`, or else from torch's generator; a backward pass has noise of its
            own.
        gradient: The rule for all arguments, or a mapping from the names of arguments, as `x` or
            `p['w']`, to rules; a name stands for everything in it. Without one, derivatives are
            refused.
        vectorized: True if `fn` takes every array with one more leading axis of the same length,
            for points, and returns every result with it; also for one point. Arrays that do not
            vary are read-only views. False if it takes one point at a time.
        batch_size: The number of points in a call of a vectorized `fn` at most.
        executor: Runs the calls for several points, as those of `concurrent.futures` do. Without
            one, calls never run at the same time.
        dtype: "float64" for a function that computes in double precision whatever it is given:
            floating arguments are converted to it, results and gradients are rounded to the
            precision of the arguments at the end.
        out: What results look like: an example, anything with a shape and a dtype, a pytree of
            these, or a function of the arguments that returns one. Only `torch.compile` has to know
            before a call; without this, `fn` is evaluated once for it, at random numbers between 0
            and 1.
        max_points: The number of points that a derivative may take; for more, it is refused before
            any of them is evaluated.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        device: `"cpu"` lets it take tensors of another device from the host, which copies.

    Returns:
        A function of the same signature, with counters: `evaluations` is the number of points so
        far, `calls` the number of calls.

    Raises:
        ArgumentError: For an argument or a result that cannot cross; the text says which.
        NoRuleError: For a derivative by an argument without a rule.
        OptionError: For options that exclude each other, or a derivative of too many points.

    Example:
        >>> import numpy as np, torch
        >>> from bridge.rules import ParameterShift
        >>> @numpy2torch(gradient=ParameterShift(), vectorized=True)
        ... def expectation(angles):  # (N, 2) -> (N,)
        ...     return np.cos(angles[:, 0]) * np.sin(angles[:, 1])
        >>> angles = torch.tensor([0.3, 0.5], requires_grad=True)
        >>> expectation(angles).backward()
        >>> angles.grad
        tensor([-0.1417,  0.8384])
        >>> expectation.evaluations, expectation.calls
        (5, 2)
    """
    return wrap(
        fn,
        direction=Direction("numpy", "torch"),
        static=(static_argnums, static_argnames),
        device=device,
        make_function=BlackBoxFunction,
        options={
            "gradient": gradient,
            "vectorized": vectorized,
            "batch_size": batch_size,
            "executor": executor,
            "dtype": dtype,
            "out": out,
            "max_points": max_points,
        },
    )


@overload
def numpy2jax(
    fn: Callable[..., Any],
    /,
    **options: Unpack[_OptionsWithDevice],
) -> BlackBoxFunction: ...
@overload
def numpy2jax(
    fn: None = None,
    /,
    **options: Unpack[_OptionsWithDevice],
) -> Decorator: ...
def numpy2jax(  # noqa: PLR0913, options by keyword
    fn: Callable[..., Any] | None = None,
    /,
    *,
    gradient: Gradient = None,
    vectorized: bool = False,
    batch_size: int | None = None,
    executor: Executor | None = None,
    dtype: Any = None,
    out: Any = None,
    max_points: int | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
    device: str | None = None,
) -> Any:
    """A function on NumPy arrays as a differentiable function of JAX arrays; also a decorator.

    It works under `jax.jit`, `jax.grad`, `jax.vmap` and every other transformation, to any order:
    NumPy computes, and derivatives follow from a rule of `bridge.rules`.

    JAX takes a function for pure: XLA may merge equal calls, and leave out those without a use. A
    function that draws random numbers takes a key, `f(x, rng=key)`, which prevents that for others.
    With one key, `jax.jacfwd` of `jax.jacfwd` has the same noise in both of its tangents.

    Args:
        fn: As for `numpy2torch`, from arrays of JAX. A parameter `rng` needs a key here.
        gradient: The rule for all arguments, or a mapping from the names of arguments to rules.
        vectorized: True if `fn` takes and returns arrays with one more leading axis, for points.
        batch_size: The number of points in a call of a vectorized `fn` at most.
        executor: Runs the calls for several points.
        dtype: "float64" for a function that computes in double precision, which JAX has no arrays
            of in 32-bit mode: results are rounded at the end.
        out: What results look like. Without it, `fn` is evaluated once for that, at random numbers
            between 0 and 1.
        max_points: The number of points that a derivative may take.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.
        device: `"cpu"` lets it take arrays of another device from the host, which copies.

    Returns:
        A function of the same signature, with the counters `evaluations` and `calls`.

    Raises:
        ArgumentError: When called with an argument, or for a result, that cannot cross, such as a
            float64 result while JAX is in 32-bit mode; the text says which.
        NoRuleError: For a derivative by an argument without a rule.
        OptionError: For options that exclude each other, or a derivative of too many points.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from bridge.rules import ParameterShift
        >>> @numpy2jax(gradient=ParameterShift(), out=np.empty((), np.float32))
        ... def expectation(angles):
        ...     return np.cos(angles[0]) * np.sin(angles[1])
        >>> gradient = jax.jit(jax.grad(expectation))(jnp.array([0.3, 0.5]))
        >>> [round(float(g), 3) for g in gradient]
        [-0.142, 0.838]
    """
    return wrap(
        fn,
        direction=Direction("numpy", "jax"),
        static=(static_argnums, static_argnames),
        device=device,
        make_function=BlackBoxFunction,
        options={
            "gradient": gradient,
            "vectorized": vectorized,
            "batch_size": batch_size,
            "executor": executor,
            "dtype": dtype,
            "out": out,
            "max_points": max_points,
        },
    )


@overload
def numpy2mlx(
    fn: Callable[..., Any],
    /,
    **options: Unpack[_Options],
) -> BlackBoxFunction: ...
@overload
def numpy2mlx(
    fn: None = None,
    /,
    **options: Unpack[_Options],
) -> Decorator: ...
def numpy2mlx(  # noqa: PLR0913, options by keyword
    fn: Callable[..., Any] | None = None,
    /,
    *,
    gradient: Gradient = None,
    vectorized: bool = False,
    batch_size: int | None = None,
    executor: Executor | None = None,
    dtype: Any = None,
    out: Any = None,
    max_points: int | None = None,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Sequence[str] = (),
) -> Any:
    """A function on NumPy arrays as a differentiable function of MLX arrays; also a decorator.

    It works under `mx.grad`, `mx.vjp`, `mx.jvp` and `mx.vmap`, to any order: NumPy computes, and
    derivatives follow from a rule of `bridge.rules`.

    Args:
        fn: As for `numpy2torch`, from arrays of MLX. A parameter `rng` needs a key here.
        gradient: The rule for all arguments, or a mapping from the names of arguments to rules.
        vectorized: True if `fn` takes and returns arrays with one more leading axis, for points.
        batch_size: The number of points in a call of a vectorized `fn` at most.
        executor: Runs the calls for several points.
        dtype: "float64" for a function that computes in double precision; results are rounded to
            the precision of the arguments at the end.
        out: What results look like. Without it, `fn` is evaluated once for that, at random numbers
            between 0 and 1.
        max_points: The number of points that a derivative may take.
        static_argnums: Positions of arguments that are passed as they are, arrays in them refused.
        static_argnames: Their names.

    Returns:
        A function of the same signature, with the counters `evaluations` and `calls`.

    Raises:
        ArgumentError: For an argument or a result that cannot cross.
        NoRuleError: For a derivative by an argument without a rule.
        OptionError: For options that exclude each other, or a derivative of too many points.

    Example:
        >>> import mlx.core as mx, numpy as np
        >>> from bridge.rules import ParameterShift
        >>> @numpy2mlx(gradient=ParameterShift(), out=np.empty((), np.float32))
        ... def expectation(angles):
        ...     return np.cos(angles[0]) * np.sin(angles[1])
        >>> mx.grad(expectation)(mx.array([0.3, 0.5]))
        array([-0.14168, 0.838387], dtype=float32)
    """
    return wrap(
        fn,
        direction=Direction("numpy", "mlx"),
        static=(static_argnums, static_argnames),
        device=None,
        make_function=BlackBoxFunction,
        options={
            "gradient": gradient,
            "vectorized": vectorized,
            "batch_size": batch_size,
            "executor": executor,
            "dtype": dtype,
            "out": out,
            "max_points": max_points,
        },
    )
