"""Comparison of implementations of one function in several frameworks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge import _registry
from bridge._core import pytree
from bridge._core.errors import OptionError
from bridge._testing import arguments, implementations
from bridge._testing.arguments import Arguments
from bridge._testing.comparison import Comparison, describe_tolerance, join
from bridge._testing.implementations import Implementation
from bridge._testing.numpy import arrays
from bridge._testing.numpy.differences import Tolerance
from bridge._testing.stages import (
    TRANSFORMS,
    Results,
    Stage,
    Word,
    derivative_order,
    describe,
    first_stage,
    words,
)

_LENGTH_OF_REASON = 200


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check_same` has compared; `str()` of it is for readers.

    Attributes:
        implementations: The names of the implementations.
        errors: For each derivative that was compared, the largest difference from the first
            implementation that has it, relative to the largest element.
        remarks: What implementations lack, and in which dtypes they differ.
        tolerance: The tolerance, in words.
    """

    implementations: tuple[str, ...]
    errors: Mapping[str, float]
    remarks: tuple[str, ...]
    tolerance: str

    def __str__(self) -> str:
        lines = [
            f"{what}: largest relative error {error:.1e}" for what, error in self.errors.items()
        ]
        head = f"{join(self.implementations)} agree ({self.tolerance}):"
        return "\n  ".join([head, *lines, *self.remarks])


def check_same(
    *functions: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    transforms: Sequence[str] = TRANSFORMS,
    required: Sequence[str] = (),
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    **by_framework: Callable[..., Any] | None,
) -> Report:
    """Raise unless implementations of one function in several frameworks agree.

    Compared are values, gradients, tangents, derivatives of these, and batches of values and of
    first derivatives, for random cotangents and directions, which are complex where the arrays
    are. Complex gradients of JAX are conjugated first, as those of torch and MLX are by
    convention. Batches are compared with calls for each example too.

    Args:
        *functions: Functions of torch, JAX or MLX. In which framework each one lives is found by
            a call: it is the one whose arrays it returns.
        args: The arguments, trees with arrays of NumPy or of any framework in them. Each function
            gets arrays of its own framework. Derivatives are by floating-point and complex ones.
        order: The highest derivative: 2 for derivatives of gradients, 0 for values.
        transforms: Which of `"vjp"`, `"jvp"` and `"vmap"` are compared, in any combination but
            that of forward mode with itself, which torch gets wrong for an `autograd.Function`.
        required: Which of them every function must have. What else one lacks, such as forward
            mode, is a line in the report; at least two functions must have values.
        rtol: Relative tolerance. By default the square root of the lowest precision among the
            arguments and results: 3e-4 for float32.
        atol: Absolute tolerance. By default `rtol` times the largest element of each array.
        seed: The seed of the random numbers.
        **by_framework: Functions by the framework they live in, `torch=`, `jax=` or `mlx=`; by
            `numpy=` one that values alone are compared with.

    Returns:
        A report on what was compared. `print` shows it.

    Raises:
        AssertionError: If they differ: with the implementation, the result, the argument, the
            element, both values and the largest error; if one lacks what is required.
        ArgumentError: If it cannot be told where a function lives, or a result is no array.
        OptionError: If a name of a transform is another.
        UnknownFrameworkError: If a keyword is none of the frameworks.

    Example:
        >>> import numpy as np, torch, jax.numpy as jnp
        >>> from bridge.testing import check_same
        >>> x = np.array([0.3, -1.2], dtype="float32")
        >>> report = check_same(torch.sinc, jnp.sinc, args=(x,))
        >>> sorted(report.errors)[:3]
        ['jvp', 'jvp of vjp', 'values']
    """
    for name in by_framework:
        _registry.arrays(name)  # which raises for another name
    if {*required} - {*transforms} or isinstance(required, str):
        raise OptionError(f"required={required!r} names what transforms={transforms!r} does not.")
    chosen = words(transforms, order)
    named = [fn for fn in (*functions, *by_framework.values()) if fn is not None]
    given = arguments.read(args, named)
    found = implementations.find(functions, by_framework, given)
    check = _Check(found, given, tuple(required), rtol, atol, arrays.generator(seed))
    return check.run(chosen)


@dataclasses.dataclass
class _Check:
    """A comparison that is under way."""

    implementations: Sequence[Implementation]
    arguments: Arguments
    required: tuple[str, ...]
    rtol: float | None
    atol: float | None
    random: Any
    tolerance: Tolerance = dataclasses.field(init=False)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)
    differences: dict[str, str] = dataclasses.field(default_factory=dict)

    def run(self, chosen: Sequence[Word]) -> Report:
        """Compare everything, and raise after the first order at which something differs."""
        stage, results = self._compare_values()
        self._raise_if_different()
        stages: dict[Word, tuple[Stage, Results]] = {(): (stage, results)}
        compared = chosen[1:] if stage.output_labels and stage.input_labels else []
        if not compared and len(chosen) > 1:
            self.remarks.append("no derivatives, since no argument or no result has any")
        for previous, word in zip(chosen, compared, strict=False):
            if derivative_order(word) > derivative_order(previous):
                self._raise_if_different()
            parent, known = stages[word[:-1]]
            if not known or describe(word[:-1]) in self.differences:
                stages[word] = parent, {}  # there is nothing to derive, or it would differ too
                continue
            derived = parent.derive(word[-1], known, self.random)
            found, lacks = derived.run(self.arguments)
            self._note_lacks(word, lacks)
            stages[word] = derived, found
            if word[-1] == "vmap" and found:
                first = next(iter(found))
                one_by_one = parent.run_one_by_one(first, self.arguments)
                found = {**found, f"{first} called for each example": one_by_one}
            self._compare(describe(word), derived.output_labels, found)
        self._raise_if_different()
        names = tuple(each.label for each in self.implementations)
        return Report(names, self.errors, tuple(self.remarks), describe_tolerance(self.tolerance))

    def _compare_values(self) -> tuple[Stage, Results]:
        """Compare values; return the functions of differentiable results, and their values."""
        paths = self._paths_of_results()
        labels = [*map(_label, paths)]
        choose = lambda each, result: _select(each, result, paths)
        stage = first_stage(self.implementations, self.arguments, choose, labels)
        results, _ = stage.run(self.arguments)
        self.tolerance = self._choose_tolerance(results)
        self._note_dtypes(labels, results)
        self._compare("values", labels, results)
        kept = [
            i for i in range(len(paths)) if all(arrays.is_inexact(ys[i]) for ys in results.values())
        ]
        differentiable = [paths[i] for i in kept]
        choose_kept = lambda each, result: _select(each, result, differentiable)
        able = [x for x in self.implementations if x.kit.name != "numpy"]
        values = {x.label: [results[x.label][i] for i in kept] for x in able}
        labels = [labels[i] for i in kept]
        return first_stage(able, self.arguments, choose_kept, labels), values

    def _paths_of_results(self) -> list[tuple[Any, ...]]:
        """Return the paths of all results; raise if the trees of implementations differ."""
        found: dict[str, dict[tuple[Any, ...], Any]] = {}

        def keep(each: Implementation, result: Any) -> list[Any]:
            found[each.label] = implementations.outputs_by_path(each, result)
            return []

        first_stage(self.implementations, self.arguments, keep, ()).run(self.arguments)
        first, *others = found
        for other in others:
            if {*found[first]} != {*found[other]}:
                trees = [f"{x} has {', '.join(map(_label, found[x]))}" for x in (first, other)]
                raise AssertionError(f"the results are other trees: {', and '.join(trees)}.")
        return [*found[first]]

    def _choose_tolerance(self, results: Results) -> Tolerance:
        """Return the tolerance that follows from the lowest precision that takes part."""
        everything = [*self.arguments.primals, *(y for ys in results.values() for y in ys)]
        dtypes = {x.dtype.name for x in everything if arrays.is_inexact(x)}
        dtypes |= {each.kit.most_accurate for each in self.implementations}
        precision = max(map(arrays.precision, dtypes))
        rtol = precision**0.5 if self.rtol is None else self.rtol
        return Tolerance(rtol, self.atol, 10 * precision)

    def _compare(self, what: str, labels: Sequence[str], results: Results) -> None:
        if len(results) < 2:
            self.remarks += [f"{what}: {label} alone has it" for label in results]
            return
        comparison = Comparison(what, labels, results, self.tolerance)
        difference = comparison.describe_difference()
        if difference:
            self.differences[what] = difference
        else:
            self.errors[what] = comparison.largest_error()

    def _note_lacks(self, word: Word, lacks: Mapping[str, Exception]) -> None:
        for label, error in lacks.items():
            reason = " ".join(str(error).split())
            if len(reason) > _LENGTH_OF_REASON:
                reason = f"{reason[:_LENGTH_OF_REASON]}..."
            text = f"{label} has no {describe(word)}: {reason}"
            if word[-1] in self.required:
                message = f"{text}\nrequired={self.required!r} asks for it."
                raise AssertionError(message) from error
            self.remarks.append(text)

    def _note_dtypes(self, labels: Sequence[str], results: Results) -> None:
        for i, name in enumerate(labels):
            dtypes = {label: ys[i].dtype.name for label, ys in results.items()}
            if len({*dtypes.values()}) > 1:
                told = [f"{dtype} in {label}" for label, dtype in dtypes.items()]
                self.remarks.append(f"{name} is {', '.join(told)}")

    def _raise_if_different(self) -> None:
        if self.differences:
            told = "\n".join(self.differences.values())
            remarks = "".join(f"\n{line}" for line in self.remarks)
            text = f"{told}\nThe tolerance is {describe_tolerance(self.tolerance)}.{remarks}"
            raise AssertionError(text)


def _select(each: Implementation, result: Any, paths: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return leaves of a result by their paths."""
    leaves = implementations.outputs_by_path(each, result)
    return [leaves[path] for path in paths]


def _label(path: Sequence[Any]) -> str:
    return pytree.format_path(["result", *path])
