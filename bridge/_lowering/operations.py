"""What a target supplies: easy operations, of which the hard ones are made for all targets."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from bridge._core.graph import Graph
from bridge._core.spec import ArraySpec

Shape = Sequence[int]
# A body of a loop, or a branch: `(like, operands) -> results`.
Run = Callable[[Any, Sequence[Any]], list[Any]]


class Operations(Protocol):
    """The easy operations of a target, on its own arrays.

    An array of unsigned integers that the target cannot compute with is carried in a wider signed
    dtype; one of 64 bits by its bits.
    """

    # By word: what computes it, where the target has an operator that does just that.
    native: ClassVar[dict[str, Callable[..., Any]]]
    # Rules of the target's own, which take precedence over those for all.
    rules: ClassVar[dict[str, Callable[[Any, Any], Callable[..., Any]]]]

    def supports_dtype(self, dtype: str) -> bool:
        """Return True if arrays of this dtype can be computed with."""
        ...

    def is_recording(self) -> bool:
        """Return True while what is computed becomes part of a graph."""
        ...

    def device(self, x: Any) -> str:
        """Return the name of the device of `x`."""
        ...

    def carrier(self, dtype: str) -> str:
        """Return the dtype that arrays of `dtype` are carried in."""
        ...

    def scalar(self, constant: Any, word: str, dtype: str) -> Any | None:
        """Return a number as the second operand of a word; None if it has to be an array."""
        ...

    def embed(self, constant: Any, like: Any) -> Any:
        """Return a constant as an array on the device of `like`."""
        ...

    def anchor(self, device: str) -> Any:
        """Return an array on a device, for `like`."""
        ...

    def copy(self, x: Any) -> Any:
        """Return `x` in memory of its own."""
        ...

    def arange(self, size: int, dtype: str, like: Any) -> Any:
        """Return 0, 1, ..., on the device of `like`."""
        ...

    def full(self, shape: Shape, value: Any, dtype: str, like: Any) -> Any:
        """Return an array of equal elements on the device of `like`."""
        ...

    def shape(self, x: Any) -> tuple[int, ...]:
        """Return the shape of `x`."""
        ...

    def reshape(self, x: Any, shape: Shape) -> Any:
        """Return `x` in another shape."""
        ...

    def permute(self, x: Any, permutation: Shape) -> Any:
        """Return `x` with its axes in another order."""
        ...

    def broadcast(self, x: Any, shape: Shape) -> Any:
        """Return `x` repeated along its axes of size 1."""
        ...

    def concatenate(self, xs: Sequence[Any], axis: int) -> Any:
        """Return arrays one after the other."""
        ...

    def slice(self, x: Any, starts: Shape, limits: Shape, strides: Shape) -> Any:
        """Return a part of `x`."""
        ...

    def flip(self, x: Any, axes: Shape) -> Any:
        """Return `x` with axes reversed."""
        ...

    def pad(self, x: Any, value: Any, low: Shape, high: Shape) -> Any:
        """Return `x` with `value`, an array without axes, around it."""
        ...

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        """Return `x` where the condition is true, elsewhere `y`."""
        ...

    def cast(self, x: Any, dtype: str) -> Any:
        """Return `x` in another carrier, without a look at ranges."""
        ...

    def bits(self, x: Any, dtype: str) -> Any:
        """Return the bits of `x` as integers of the same width."""
        ...

    def clip(self, x: Any, low: int, high: int) -> Any:
        """Return integers, the nearest between two bounds."""
        ...

    def take(self, x: Any, indices: Any, axis: int) -> Any:
        """Return entries along an axis, at a vector of indices."""
        ...

    def take_along(self, x: Any, indices: Any, axis: int) -> Any:
        """Return for each place the entry at its index along an axis."""
        ...

    def scatter(self, kind: str, x: Any, indices: Any, updates: Any) -> Any:
        """Return a vector with updates at indices: `set`, `add`, `mul`, `min` or `max`."""
        ...

    def argsort(self, x: Any, axis: int, *, descending: bool) -> Any:
        """Return the indices that sort `x` in a stable way, NaN last of all numbers."""
        ...

    def reduce(self, kind: str, x: Any, axes: Shape, dtype: str) -> Any:
        """Return the `sum`, `prod`, `max`, `min`, `and` or `or` over axes, of which there are."""
        ...

    def argument(self, kind: str, x: Any, axis: int) -> Any:
        """Return the index of the first `max` or `min`, or of the first NaN."""
        ...

    def cumulative(self, kind: str, x: Any, axis: int, dtype: str) -> Any:
        """Return the `sum`, `prod`, `max`, `min` or `logsumexp` up to each entry."""
        ...

    def matmul(self, x: Any, y: Any) -> Any:
        """Return the products of matrices."""
        ...

    def windows(self, x: Any, sizes: Shape, strides: Shape, dilation: Shape) -> Any:
        """Return all windows of `x`, an axis for each after those of the windows."""
        ...

    def convolve(self, x: Any, w: Any, strides: Shape, dilation: Shape, groups: int) -> Any:
        """Return the convolution of `[N, C, *space]` by `[O, I, *space]`, without padding."""
        ...

    def scan(
        self,
        body: Run,
        graph: Graph,
        constants: Sequence[Any],
        carry: Sequence[Any],
        rows: Sequence[Any],
        *,
        length: int,
        reverse: bool,
    ) -> list[Any]:
        """Return the last carry, and the rows that the rounds of a loop return."""
        ...

    def loop(
        self,
        condition: Run,
        body: Run,
        condition_constants: Sequence[Any],
        body_constants: Sequence[Any],
        carry: Sequence[Any],
    ) -> list[Any]:
        """Return the carry after a loop that ends when its condition is false."""
        ...

    def branch(
        self, index: Any, branches: Sequence[Run], operands: Sequence[Any], specs: Sequence[Any]
    ) -> list[Any]:
        """Return the results of one of the branches."""
        ...

    def narrow(self, x: Any, spec: ArraySpec, label: str) -> Any:
        """Return 64-bit integers in 32 bits; raise, now or when it runs, if they do not fit."""
        ...
