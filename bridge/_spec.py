"""What is known of an array without looking at its values."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape, dtype and device of an array, in no framework's own terms.

    Attributes:
        shape: Sizes of the axes.
        dtype: NumPy's name, with those of `ml_dtypes`: `float32`, `bfloat16`, `bool`.
        device: `cpu`, `cuda:0`, or `meta` for an array without values.
        weak: Whether it is a Python number, whose dtype gives way to that of arrays.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    weak: bool = False

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through an array of this dtype."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def grown(self, axis: int | None, size: int) -> "ArraySpec":
        """The same with one more axis of this size at `axis`, if that is no `None`."""
        if axis is None:
            return self
        shape = list(self.shape)
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, size)
        return dataclasses.replace(self, shape=tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"
