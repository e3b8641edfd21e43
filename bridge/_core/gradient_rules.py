"""Gradient rules: how a function without autodiff is differentiated.

A rule is data: it says which values of the function, or which code of the user, a derivative is
computed from. It is compared by value and can be pickled, if what it holds can.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bridge._core.errors import OptionError


def _check_step(h: float | None) -> None:
    if h is not None and not (math.isfinite(h) and h > 0):
        raise OptionError(f"h={h} has to be a positive number.")


@dataclasses.dataclass(frozen=True)
class ParameterShift:
    r"""Exact derivatives by rotation angles, from values at shifted angles.

    **An angle that enters R rotations has the frequencies 1..R. Declaring (1,) for it gives a wrong
    gradient in silence**: `bridge.testing.check_rule` compares declared frequencies with values.
    PennyLane tells them, `qml.fourier.qnode_spectrum`, of circuits without fixed angles: pass these
    as arguments, since 0.45 takes the frequencies of one gate for another after a fixed one.

    A function that is a finite Fourier sum in an element, with frequencies w_1..w_R, has

        f'(x) = sum_i c_i [f(x + s_i) - f(x - s_i)],   where 2 sum_i c_i sin(w_r s_i) = w_r

    so that a derivative takes 2 R values. Second and higher derivatives shift again, exactly;
    points that coincide modulo the period are computed once.

    Args:
        frequencies: The frequencies of every element, or one row of them for each element, nested
            like the argument.
        shifts: R positive shifts. By default, for multiples 1..R of a frequency w, these are
            `(2i - 1) pi / (2 R w)`; for others those of least `sum |c_i|`, which is the noise,
            among shifts in these proportions.

    Raises:
        OptionError: If frequencies are not positive or not different, or if shifts do not tell
            them apart.

    Example:
        >>> ParameterShift(frequencies=(0.5, 1))
        ParameterShift(frequencies=(0.5, 1), shifts=None)

    Source: Wierichs et al., General parameter-shift rules for quantum gradients, 2022,
    https://arxiv.org/abs/2107.12390.
    """

    frequencies: Sequence[Any] = (1.0,)
    shifts: Sequence[float] | None = None

    def __post_init__(self) -> None:
        # Hashable, and compared by value, whatever sequences they are.
        object.__setattr__(self, "frequencies", _as_tuples(self.frequencies))
        object.__setattr__(self, "shifts", self.shifts and _as_tuples(self.shifts))
        for row in self.rows():
            positive = all(math.isfinite(f) and f > 0 for f in row)
            if not row or not positive or len({*row}) < len(row):
                raise OptionError(f"frequencies have to be positive and to differ, unlike {row}.")
            if self.shifts is not None and len(self.shifts) != len(row):
                raise OptionError(
                    f"shifts={self.shifts} has to hold one shift for each frequency of {row}."
                )
        if self.shifts is not None and min(self.shifts) <= 0:
            raise OptionError(f"shifts have to be positive, unlike {tuple(self.shifts)}.")

    def rows(self) -> list[tuple[float, ...]]:
        """Return the rows of frequencies, in the order of elements; one row is for all of them."""
        return _rows(self.frequencies)


def _as_tuples(values: Any) -> Any:
    values = values.tolist() if hasattr(values, "tolist") else values
    return tuple(map(_as_tuples, values)) if isinstance(values, Sequence) else values


def _check_then(rule: Any) -> None:
    if isinstance(rule.then, UserRule):
        raise OptionError(
            f"then={rule.then!r} of a {type(rule).__name__} has to be a rule that computes with "
            "values, such as FiniteDifference()."
        )


def _rows(frequencies: Any) -> list[tuple[float, ...]]:
    if not isinstance(frequencies, tuple):
        raise OptionError(
            f"frequencies have to be numbers, nested like the argument, unlike {frequencies!r}."
        )
    if all(isinstance(f, (int, float)) for f in frequencies):
        return [tuple(map(float, frequencies))]
    return [row for part in frequencies for row in _rows(part)]


@dataclasses.dataclass(frozen=True)
class FiniteDifference:
    """Differences of values, for smooth functions without noise.

    A derivative in forward mode takes the values along its tangent, whatever the number of
    elements; a gradient takes those of each element. Differences that are not central reuse the
    value that was returned, unless the function draws random numbers: reuse would bias the gradient
    of a square by `-2 variance / step`.

    Args:
        h: The step, relative to `max(1, |x|)`. By default it suits the precision and the order of
            the derivative: `eps ** (1 / (order + accuracy))`.
        accuracy: The order of the error in the step; even for central differences.
        strategy: `"center"`, `"forward"` or `"backward"`.

    Raises:
        OptionError: For an odd accuracy of central differences, one below 1, a step that is not
            positive, or another strategy.

    Example:
        >>> FiniteDifference(accuracy=4)
        FiniteDifference(h=None, accuracy=4, strategy='center')

    Source: Fornberg, Generation of finite difference formulas on arbitrarily spaced grids, 1988,
    https://doi.org/10.1090/S0025-5718-1988-0935077-0.
    """

    h: float | None = None
    accuracy: int = 2
    strategy: Literal["center", "forward", "backward"] = "center"

    def __post_init__(self) -> None:
        _check_step(self.h)
        if self.strategy not in ("center", "forward", "backward"):
            raise OptionError(
                f'strategy={self.strategy!r} is none. Pass "center", "forward" or "backward".'
            )
        if self.accuracy < 1 or (self.strategy == "center" and self.accuracy % 2):
            raise OptionError(
                f"accuracy={self.accuracy} is none of {self.strategy} differences: it is "
                + ("2, 4, and so on." if self.strategy == "center" else "1, 2, and so on.")
            )


@dataclasses.dataclass(frozen=True)
class ComplexStep:
    """Imaginary parts of values at complex arguments, exact to rounding for analytic functions.

    The derivative along v is `Im f(x + i h v) / h`: one value for each direction, and no difference
    that could cancel. A second derivative takes real differences of complex steps.

    Args:
        h: The step.
        then: The rule for derivatives of the derivative.

    Raises:
        OptionError: For a step that is not positive, or another rule than differences.
        ArgumentError: When a derivative is taken, for a function that returns real numbers for
            complex arguments.

    Example:
        >>> ComplexStep().then.accuracy
        4

    Source: Squire and Trapp, Using complex variables to estimate derivatives of real functions,
    1998, https://doi.org/10.1137/S003614459631241X.
    """

    h: float = 1e-30
    then: FiniteDifference = FiniteDifference(accuracy=4)

    def __post_init__(self) -> None:
        _check_step(self.h)
        if not isinstance(self.then, FiniteDifference):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"then={self.then!r} of a ComplexStep has to be a FiniteDifference.")


@dataclasses.dataclass(frozen=True)
class SPSA:
    """Central differences along random directions, which all arguments that are wanted share.

    The estimate along directions d_k of random signs is the mean of
    `d_k [f(x + h d_k) - f(x - h d_k)] / (2 h)`: `2 * num_directions` values, whatever the number of
    elements. Its bias is O(h^2). For a linear function of n elements the variance of one element is
    `(|g|^2 - g_j^2) / num_directions`, with g the gradient.

    Forward mode is the central difference along the tangent.

    Args:
        num_directions: The number of directions that one gradient is averaged over.
        h: The step.
        seed: The seed of the directions in this process, each gradient taking new ones. By default
            they are others in each process; where a function draws random numbers, they follow from
            its key.

    Raises:
        OptionError: For fewer than one direction, or a step that is not positive.

    Example:
        >>> SPSA(num_directions=8, seed=1)
        SPSA(num_directions=8, h=0.01, seed=1)

    Source: Spall, Multivariate stochastic approximation using a simultaneous perturbation gradient
    approximation, 1992, https://doi.org/10.1109/9.119632.
    """

    num_directions: int = 1
    h: float = 1e-2
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_step(self.h)
        if self.num_directions < 1:
            raise OptionError(f"num_directions={self.num_directions} has to be 1 or more.")


@dataclasses.dataclass(frozen=True)
class Vjp:
    """The user's own gradients, such as those of an adjoint method.

    Args:
        fn: `(primals, cotangents, outputs) -> gradients`: `primals` is the tuple of arguments,
            `cotangents` and `outputs` are like the result, and `outputs` are those that were
            returned. The gradients are like the primals, bare for one argument, and `None` where
            there is none.
        then: The rule by which derivatives are differentiated by the arguments that have this rule,
            if they ever are. The derivative by cotangents needs no rule: it is linear.

    Example:
        >>> square = Vjp(lambda primals, cotangents, outputs: 2 * primals[0] * cotangents)
    """

    fn: Callable[[Any, Any, Any], Any]
    then: "Rule | None" = None

    def __post_init__(self) -> None:
        _check_then(self)


@dataclasses.dataclass(frozen=True)
class Jvp:
    """The user's own tangents.

    Reverse mode takes one tangent for each element of the arguments that are wanted, in one call.

    Args:
        fn: `(primals, tangents) -> tangents`, like the arguments and like the result.
        then: The rule by which derivatives are differentiated by the arguments that have this rule,
            if they ever are.

    Example:
        >>> square = Jvp(lambda primals, tangents: 2 * primals[0] * tangents[0])
    """

    fn: Callable[[Any, Any], Any]
    then: "Rule | None" = None

    def __post_init__(self) -> None:
        _check_then(self)


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """The user's own Jacobians, of a function with one result.

    It is evaluated once for any number of cotangents or tangents at a point.

    Args:
        fn: `(*primals) -> jacobian`, with the axes of the result first, then those of the argument;
            a tuple of Jacobians for several arguments.
        then: The rule by which derivatives are differentiated by the arguments that have this rule,
            if they ever are: `Jacobian(adjoint, then=ParameterShift())` has Hessians.

    Example:
        >>> import numpy as np
        >>> square = Jacobian(lambda x: np.diag(2 * x))
    """

    fn: Callable[..., Any]
    then: "Rule | None" = None

    def __post_init__(self) -> None:
        _check_then(self)


UserRule = Vjp | Jvp | Jacobian
Rule = ParameterShift | FiniteDifference | ComplexStep | SPSA | UserRule
