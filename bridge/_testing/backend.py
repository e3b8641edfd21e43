"""The face of a framework in tests that are written once for several."""

import abc
import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from bridge import _registry
from bridge._api.convert import convert
from bridge._core import pytree
from bridge._core.errors import OptionError
from bridge._testing.numpy import arrays

LAYOUTS = ("contiguous", "transposed", "strided")
_MODULES = {"torch": "torch", "jax": "jax", "mlx": "mlx", "numpy": "numpy.backend"}


@dataclasses.dataclass(frozen=True)
class Backend(abc.ABC):
    """A framework, as far as a test that is written once for all of them needs it.

    `backend("torch")` makes one, and so does the pytest fixture `backend`. Gradients are in the
    framework's own convention: those of JAX by complex arguments are conjugates of the others'.

    Attributes:
        name: `"torch"`, `"jax"`, `"mlx"` or `"numpy"`.
        dtype: The dtype of floating-point arrays that `array` makes, or None to keep theirs.
        layout: How these lie in memory: `"contiguous"`; `"transposed"`, with the first and the last
            axis exchanged; or `"strided"`, with gaps and an offset. JAX has one layout only.
    """

    name: ClassVar[str]
    # True if the vjp of a complex function is the conjugate of that of torch, in and out.
    conjugates_gradients: ClassVar[bool] = False

    dtype: str | None = None
    layout: str = "contiguous"

    def __str__(self) -> str:
        changes = [self.layout] if self.layout != LAYOUTS[0] else []
        return "-".join([self.name, *([self.dtype] if self.dtype else []), *changes])

    @property
    @abc.abstractmethod
    def xp(self) -> Any:
        """The array namespace, with the names of the Python array API standard.

        That of torch is `array_api_compat.torch`, of the extra `testing`; it has the names of
        torch too.
        """

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """Return an array of this framework.

        Args:
            values: Numbers, nested lists of them, or an array of any framework.
            dtype: NumPy's name of a dtype, or one of `ml_dtypes`. Otherwise, floating-point values
                get the dtype of this backend, if it has one, and complex ones the complex dtype
                of that precision. What is left keeps the dtype of the array, or has 32 bits where
                it comes from numbers.

        Raises:
            ArgumentError: If the framework lacks the dtype, in its current mode; if `dtype` is real
                and the values are not.
            RangeError: For integers of 64 bits that JAX, in its 32-bit mode, has no room for.

        Example:
            >>> from bridge import testing
            >>> testing.backend("torch").array([[1.0, 2.0]])
            tensor([[1., 2.]])
        """
        host = arrays.make(values if self._is_host(values) else self.numpy(values), dtype)
        if dtype is None and self.dtype is not None:
            host = arrays.with_precision(host, self.dtype)
        host = self.narrow(host)
        return self._lay_out(host) if host.ndim else convert(host, self.name, copy=True)

    def numpy(self, tree: Any) -> Any:
        """Return `tree` with NumPy arrays for arrays, without their gradients, as copies."""
        leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
        return pytree.unflatten(structure, map(self.copy_to_host, leaves))

    @abc.abstractmethod
    def grad(self, fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
        """Return the function that computes the gradient of `fn`, whose result is one number."""

    @abc.abstractmethod
    def vjp(self, fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> Any:
        """Return the gradients of `fn` at `primals`, a tuple, for cotangents like its result.

        Primals and results may be trees.
        """

    @abc.abstractmethod
    def jvp(self, fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """Return the tangent of the result of `fn` at `primals`, for tangents like these."""

    @abc.abstractmethod
    def vmap(self, fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Return `fn` for a batch of examples, which lie along `in_axes` of the arguments."""

    @abc.abstractmethod
    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, compiled; what cannot be compiled as a whole is refused.

        For torch that is `torch.compile` without code generation, which needs a C++ compiler.
        """

    def double_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which there are arrays of 64 bits: JAX counts in them, MLX on CPU."""
        return contextlib.nullcontext()

    def most_accurate(self) -> str:
        """Return the dtype that functions are no more accurate than now, whatever they get."""
        return "float64"

    def own(self, x: Any) -> Any:
        """Return an array that may be changed in place where `x` is differentiated by."""
        return x

    def copy_to_host(self, x: Any) -> Any:
        """Return an array of any framework as a NumPy array; what is none, as it is."""
        return convert(x, "numpy", copy=True)

    def narrow(self, host: Any) -> Any:
        """Return a NumPy array of integers with 32 bits, if the framework has no others now."""
        return host

    def turn_convention(self, xs: Sequence[Any]) -> tuple[Any, ...]:
        """Turn cotangents or gradients from torch's convention to that of the framework, or back.

        They are flat arrays; only complex ones change.
        """
        return tuple(xs)

    @abc.abstractmethod
    def is_lack(self, error: Exception) -> bool:
        """Return True if `error` says that a function has no such derivative, or no batches."""

    def _is_host(self, values: Any) -> bool:
        owner = _registry.array_owner(values)
        return owner is None or owner.name == "numpy"

    def _lay_out(self, host: Any) -> Any:
        """Make an array of these values that lies in memory as the layout says."""
        if self.layout == "transposed":
            swapped = convert(arrays.swap_ends(host), self.name, copy=True)
            return swapped.swapaxes(0, -1)
        if self.layout == "strided":
            return convert(arrays.with_gaps(host), self.name, copy=True)[..., 1::2]
        return convert(host, self.name, copy=True)


def backend(name: str, dtype: str | None = None, layout: str = "contiguous") -> Backend:
    """Return the face of the framework `name` for tests.

    Args:
        name: `"torch"`, `"jax"`, `"mlx"`, or `"numpy"`, which has values only.
        dtype: The dtype of floating-point arrays that its method `array` makes; None keeps theirs.
        layout: How these lie in memory: `"contiguous"`, `"transposed"` or `"strided"`.

    Raises:
        MissingFrameworkError: If it is not installed.
        UnknownFrameworkError: If it is another name.
        OptionError: If it is another layout, or `dtype` is none of real or complex numbers.

    Example:
        >>> from bridge import testing
        >>> torch = testing.backend("torch")
        >>> torch.grad(lambda x: (x * x).sum())(torch.array([1.0, 2.0]))
        tensor([2., 4.])
    """
    _registry.arrays(name)
    if layout not in LAYOUTS:
        raise OptionError(f"layout={layout!r} is none of {', '.join(map(repr, LAYOUTS))}.")
    if dtype is not None and not arrays.is_inexact_name(dtype):
        raise OptionError(f"dtype={dtype!r} is no dtype of real or complex numbers.")
    module = importlib.import_module(f"bridge._testing.{_MODULES[name]}")
    return module.BACKEND(dtype, layout)
