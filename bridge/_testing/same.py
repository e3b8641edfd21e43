"""Comparison of implementations of one function in several frameworks."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge import _registry
from bridge._core import pytree
from bridge._core.errors import OptionError
from bridge._testing import arguments, dtypes, implementations
from bridge._testing.arguments import Arguments
from bridge._testing.comparison import Comparison, choose_tolerance, describe_tolerance, join
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
    are. Each result has a gradient of its own; derivatives of gradients have cotangents that
    balance their sizes. Complex gradients of JAX are conjugated first, as those of torch and MLX
    are by convention. Batches are compared with calls for each example too.

    Results must have the same dtype, as far as the frameworks have it: MLX, and JAX in its mode of
    32 bits, need not have more than 32, and whole numbers may have 32 or 64, with or without a
    sign. NumPy may be more precise than the arguments. Such differences are lines in the report.

    Args:
        *functions: Functions of torch, JAX or MLX. In which framework each one lives is found by
            a call: it is the one whose arrays it returns.
        args: The arguments, trees with arrays of NumPy or of any framework in them. Each function
            gets arrays of its own framework, which it may change in place. Scalars of NumPy are
            arrays too. Derivatives are by floating-point and complex ones.
        order: The highest derivative: 2 for derivatives of gradients, 0 for values.
        transforms: Which of `"vjp"`, `"jvp"` and `"vmap"` are compared, in any combination but
            that of forward mode with itself, which torch gets wrong for an `autograd.Function`.
        required: Which of them every function must have. What else one lacks, such as forward
            mode, is a line in the report, unless it lacks all derivatives of first order.
        rtol: Relative tolerance. By default, a power of the lowest precision among the arguments
            and the result in question: 3/4 for values and 1/2 for derivatives, which are 6e-6 and
            3e-4 for float32.
        atol: Absolute tolerance. By default `rtol` times the largest element of each array.
        seed: The seed of the random numbers.
        **by_framework: Functions by the framework they live in, `torch=`, `jax=` or `mlx=`; by
            `numpy=` one that values alone are compared with.

    Returns:
        A report on what was compared. `print` shows it.

    Raises:
        AssertionError: If they differ: with the implementation, the result, the argument, the
            element, both values and the largest error; if one lacks what is required, or all
            derivatives.
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
    most_accurate: dict[str, str] = dataclasses.field(init=False)
    precisions: Sequence[float] = ()  # of each value
    numbers: set[tuple[str, str]] = dataclasses.field(default_factory=set)  # Python's
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    remarks: list[str] = dataclasses.field(default_factory=list)
    differences: dict[str, str] = dataclasses.field(default_factory=dict)

    def run(self, chosen: Sequence[Word]) -> Report:
        """Compare everything, and raise after the first order at which something differs."""
        self.most_accurate = dtypes.find_most_accurate(self.implementations, self.arguments)
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
            self._compare(derived, found)
        self._raise_if_different()
        self._raise_if_none(stages)
        names = tuple(each.label for each in self.implementations)
        return Report(names, self.errors, tuple(self.remarks), self._describe_tolerance())

    def _compare_values(self) -> tuple[Stage, Results]:
        """Compare values; return the functions of differentiable results, and their values."""
        paths = self._paths_of_results()
        labels = [*map(_label, paths)]
        choose = lambda each, result: _select(each, result, paths)
        stage = first_stage(self.implementations, self.arguments, choose, labels)
        results, _ = stage.run(self.arguments)
        self.precisions = self._find_precisions(results)
        self._compare_dtypes(labels, results)
        self._compare(stage, results)
        kept = [
            i for i in range(len(paths)) if all(arrays.is_inexact(ys[i]) for ys in results.values())
        ]
        differentiable = [paths[i] for i in kept]
        choose_kept = lambda each, result: _select(each, result, differentiable)
        able = [x for x in self.implementations if x.kit.name != "numpy"]
        values = {x.label: [results[x.label][i] for i in kept] for x in able}
        labels = [labels[i] for i in kept]
        self.precisions = [self.precisions[i] for i in kept]
        return first_stage(able, self.arguments, choose_kept, labels), values

    def _paths_of_results(self) -> list[tuple[Any, ...]]:
        """Return the paths of all results; raise if the trees of implementations differ."""
        found: dict[str, dict[tuple[Any, ...], Any]] = {}

        def keep(each: Implementation, result: Any) -> list[Any]:
            found[each.label] = implementations.outputs_by_path(each, result)
            numbers = [p for p, y in found[each.label].items() if isinstance(y, int | float)]
            self.numbers |= {(each.label, _label(path)) for path in numbers}
            return []

        first_stage(self.implementations, self.arguments, keep, ()).run(self.arguments)
        first, *others = found
        for other in others:
            if {*found[first]} != {*found[other]}:
                trees = [f"{x} has {', '.join(map(_label, found[x]))}" for x in (first, other)]
                raise AssertionError(f"the results are other trees: {', and '.join(trees)}.")
        return [*found[first]]

    def _find_precisions(self, results: Results) -> list[float]:
        """Return the lowest precision that takes part in each result."""
        common = {x.dtype.name for x in self.arguments.primals} | {*self.most_accurate.values()}
        columns = zip(*results.values(), strict=True)
        inexact = [{y.dtype.name for y in ys if arrays.is_inexact(y)} for ys in columns]
        return [max(map(arrays.precision, common | names)) for names in inexact]

    def _tolerance(self, origin: frozenset[int], order: int) -> Tolerance:
        precision = max(self.precisions[i] for i in origin)
        return choose_tolerance(precision, order, self.rtol, self.atol)

    def _describe_tolerance(self) -> str:
        """Return the largest tolerances of values and of derivatives, in words."""
        everything = frozenset(range(len(self.precisions)))
        if not everything:
            return "exactly"
        told = [describe_tolerance(self._tolerance(everything, order)) for order in (0, 1)]
        both = f"{told[0]} for values; {told[1]} for derivatives"
        return told[0] if told[0] == told[1] else both

    def _compare(self, stage: Stage, results: Results) -> None:
        what, labels = describe(stage.word), stage.output_labels
        if len(results) < 2:
            self.remarks += [f"{what}: {label} alone has it" for label in results]
            return
        order = derivative_order(stage.word)
        tolerances = [self._tolerance(origin, order) for origin in stage.origins]
        comparison = Comparison(what, labels, results, tolerances)
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

    def _compare_dtypes(self, labels: Sequence[str], results: Results) -> None:
        for i, name in enumerate(labels):
            found = {label: ys[i].dtype.name for label, ys in results.items()}
            kinds = {arrays.kind(ys[i]) for ys in results.values()}
            if len({*found.values()}) < 2 or len(kinds) > 1:
                continue  # of which the comparison of values tells
            text = f"{name} is {', '.join(f'{dtype} in {label}' for label, dtype in found.items())}"
            of_arrays = {k: v for k, v in found.items() if (k, name) not in self.numbers}
            own = {x.label for x in self.implementations if x.kit.name != "numpy"}
            of_frameworks = {k: v for k, v in of_arrays.items() if k in own}
            if all(dtypes.are_same(x, self.most_accurate) for x in (of_frameworks, of_arrays)):
                self.remarks.append(text)
            else:
                self.differences[f"dtype of {name}"] = f"{text}."

    def _raise_if_none(self, stages: Mapping[Word, tuple[Stage, Results]]) -> None:
        """Raise if derivatives were to be compared, and an implementation has not a single one."""
        first = [found for word, (_, found) in stages.items() if word in (("vjp",), ("jvp",))]
        for each in self.implementations:
            if first and each.kit.name != "numpy" and not any(each.label in x for x in first):
                remarks = "".join(f"\n{line}" for line in self.remarks)
                raise AssertionError(
                    f"{each.label} has no derivative that could be compared. To compare values "
                    f"alone, pass order=0.{remarks}"
                )

    def _raise_if_different(self) -> None:
        if self.differences:
            told = "\n".join(self.differences.values())
            remarks = "".join(f"\n{line}" for line in self.remarks)
            text = f"{told}\nThe tolerance is {self._describe_tolerance()}.{remarks}"
            raise AssertionError(text)


def _select(each: Implementation, result: Any, paths: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return leaves of a result by their paths."""
    leaves = implementations.outputs_by_path(each, result)
    return [leaves[path] for path in paths]


def _label(path: Sequence[Any]) -> str:
    return pytree.format_path(["result", *path])
