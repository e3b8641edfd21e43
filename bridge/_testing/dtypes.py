"""Which dtypes of results are the same, as far as each framework has them."""

from collections.abc import Sequence

from bridge._testing.arguments import Arguments
from bridge._testing.implementations import Implementation
from bridge._testing.numpy import arrays

# Counts and indices: those of torch are int64, of JAX int32, of MLX uint32.
_WIDE_INTEGERS = ("int32", "int64", "uint32", "uint64")


def are_same(dtypes: dict[str, str], most_accurate: dict[str, str]) -> bool:
    """Return True if results of implementations have one dtype, as far as frameworks have it.

    Args:
        dtypes: That of each implementation, without those whose result is a Python number.
        most_accurate: The most accurate dtype that each has now.
    """
    names = {*dtypes.values()}
    if len(names) < 2 or names <= {*_WIDE_INTEGERS}:
        return True
    if not all(map(arrays.is_inexact_name, names)):
        return False
    limit = max(arrays.precision(most_accurate[label]) for label in dtypes)
    return len({max(arrays.precision(name), limit) for name in names}) == 1


def find_most_accurate(
    implementations: Sequence[Implementation], given: Arguments
) -> dict[str, str]:
    """Return the most accurate dtype that each implementation has for these arguments.

    NumPy, whose functions often compute in float64, counts as no more accurate than these.
    """
    found: dict[str, str] = {}
    for each in implementations:
        with given.precision_context(each.kit):
            found[each.label] = each.kit.most_accurate()
        if each.kit.name == "numpy":
            names = [found[each.label], *(x.dtype.name for x in given.primals)]
            found[each.label] = max(names, key=arrays.precision)
    return found
