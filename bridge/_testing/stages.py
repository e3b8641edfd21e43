"""Derivatives of implementations, each at inputs of its own."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from bridge._core.errors import OptionError
from bridge._testing.arguments import Arguments
from bridge._testing.backend import Backend
from bridge._testing.implementations import Implementation
from bridge._testing.numpy import arrays

TRANSFORMS = ("vjp", "jvp", "vmap")
# Transformations from the inner to the outer one: `("vjp", "jvp")` is the jvp of the vjp.
Word = tuple[str, ...]
Results = dict[str, list[Any]]


def words(transforms: Sequence[str], order: int) -> list[Word]:
    """Return the derivatives to an order, batches of values and of first derivatives, in order.

    None has forward mode twice.
    """
    if isinstance(transforms, str) or {*transforms} - {*TRANSFORMS}:
        raise OptionError(f"transforms={transforms!r} is no sequence of {', '.join(TRANSFORMS)}.")
    kinds = [name for name in TRANSFORMS[:2] if name in transforms]
    derivatives: list[Word] = []
    for count in range(order + 1):
        # torch.func says that the tangent of a tangent of any autograd.Function is 0.
        known = [word for word in itertools.product(kinds, repeat=count) if word.count("jvp") < 2]
        derivatives += known
    batches = [(*word, "vmap") for word in derivatives if len(word) < 2 and "vmap" in transforms]
    return sorted([*derivatives, *batches], key=lambda word: (derivative_order(word), len(word)))


def derivative_order(word: Word) -> int:
    """Return how many derivatives are taken."""
    return len([name for name in word if name != "vmap"])


def describe(word: Word) -> str:
    """Return the name of a derivative: `jvp of vjp`."""
    return " of ".join(reversed(word)) or "values"


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of flat native arrays, and the NumPy arrays that it is called with."""

    kit: Backend
    call: Callable[..., Sequence[Any]]
    inputs: Sequence[Any]

    def run(self, inputs: Sequence[Any] | None = None) -> list[Any]:
        """Return the results as NumPy arrays."""
        given = self.inputs if inputs is None else inputs
        results = self.kit.numpy([*self.call(*map(self.kit.array, given))])
        return [arrays.make(y, None) for y in results]  # which may be numbers


@dataclasses.dataclass(frozen=True)
class Stage:
    """One derivative of several implementations.

    Attributes:
        word: Which derivative.
        functions: That of each implementation that has what it is a derivative of.
        input_labels: Names of the inputs.
        output_labels: Names of the results.
        origins: For each result, the positions of the values that it is a derivative of.
    """

    word: Word
    functions: Mapping[str, Function]
    input_labels: Sequence[str]
    output_labels: Sequence[str]
    origins: Sequence[frozenset[int]]

    def run(self, arguments: Arguments) -> tuple[Results, dict[str, Exception]]:
        """Return the results of each implementation, and why others have none."""
        results: Results = {}
        lacks: dict[str, Exception] = {}
        for label, function in self.functions.items():
            try:
                with arguments.precision_context(function.kit):
                    results[label] = function.run()
            except Exception as error:
                if not self.word or not function.kit.is_lack(error):
                    error.add_note(f"It was raised by {label}, for {describe(self.word)}.")
                    raise
                lacks[label] = error
        return results, lacks

    def run_one_by_one(self, label: str, arguments: Arguments) -> list[Any]:
        """Return the results of one implementation for each example of a batch, as batches."""
        function = self.functions[label]
        with arguments.precision_context(function.kit):
            found = [function.run(xs) for xs in arrays.examples(map_batch(function.inputs))]
        return arrays.stack(found)

    def derive(self, transform: str, results: Results, random: Any) -> "Stage":
        """Return a derivative of this one, of the implementations that have results."""
        functions = {k: f for k, f in self.functions.items() if k in results}
        if transform == "vjp":
            return self._derive_vjp(functions, results, random)
        word = (*self.word, transform)
        labels, outputs = list(self.input_labels), list(self.output_labels)
        if transform == "vmap":
            batches = {
                k: Function(f.kit, f.kit.vmap(f.call), map_batch(f.inputs))
                for k, f in functions.items()
            }
            return Stage(word, batches, labels, outputs, self.origins)
        drawn = arrays.draw(next(iter(functions.values())).inputs, random)
        derived = {k: _jvp(f, arrays.cast(drawn, f.inputs)) for k, f in functions.items()}
        labels += [f"the tangent of {name}" for name in labels]
        outputs = [f"the tangent of {name}" for name in outputs]
        return Stage(word, derived, labels, outputs, self.origins)

    def _derive_vjp(self, functions: Mapping[str, Function], results: Results, random: Any) -> Self:
        """Return gradients: of each value by itself, or at once of all that are derivatives.

        A sum would hide a wrong gradient of a small value beside that of a large one, so that
        cotangents of derivatives balance their sizes.
        """
        some = next(iter(functions))
        drawn = arrays.draw(results[some], random)
        inputs, outputs = list(self.input_labels), list(self.output_labels)
        everything = range(len(outputs))
        groups = [[i] for i in everything]
        if self.word:
            drawn, groups = arrays.balance(drawn, results[some]), [[*everything]]
        of = [f" of {outputs[i]}" if len(groups) > 1 else "" for i, *_ in groups]
        known = [frozenset[int]().union(*(self.origins[i] for i in group)) for group in groups]
        return type(self)(
            (*self.word, "vjp"),
            {k: _vjp(f, arrays.cast(drawn, results[k]), groups) for k, f in functions.items()},
            [*inputs, *(f"the cotangent of {name}" for name in outputs)],
            [f"the gradient{text} by {name}" for text in of for name in inputs],
            [origin for origin in known for _ in inputs],
        )


def first_stage(
    implementations: Sequence[Implementation],
    arguments: Arguments,
    choose: Callable[[Implementation, Any], Sequence[Any]],
    output_labels: Sequence[str],
) -> Stage:
    """Return the functions themselves; `choose` takes results out of what they return."""

    def make(implementation: Implementation) -> Function:
        kit = implementation.kit

        def call(*primals: Any) -> Sequence[Any]:
            flat = arguments.make_flat(implementation.fn, kit)
            return choose(implementation, flat(*primals))

        return Function(kit, call, arguments.primals)

    functions = {each.label: make(each) for each in implementations}
    origins = [frozenset({i}) for i in range(len(output_labels))]
    return Stage((), functions, arguments.primal_labels, output_labels, origins)


def map_batch(inputs: Sequence[Any]) -> list[Any]:
    """Return a batch of examples of each input."""
    return [arrays.batch(x) for x in inputs]


def _vjp(
    function: Function, cotangents: Sequence[Any], groups: Sequence[Sequence[int]]
) -> Function:
    """Return the gradients of each group of results of a function, in torch's convention."""
    kit, count = function.kit, len(function.inputs)

    def gradients(group: Sequence[int], primals: Sequence[Any], given: Sequence[Any]) -> Any:
        def chosen(*xs: Any) -> Any:
            results = function.call(*xs)
            return tuple(results[i] for i in group)

        return kit.vjp(chosen, primals, tuple(given[i] for i in group))

    def call(*inputs: Any) -> Sequence[Any]:
        primals, given = inputs[:count], kit.turn_convention(inputs[count:])
        found = [x for group in groups for x in gradients(group, primals, given)]
        return kit.turn_convention(found)

    return Function(kit, call, [*function.inputs, *cotangents])


def _jvp(function: Function, tangents: Sequence[Any]) -> Function:
    """Return the tangents of the results of a function."""
    kit, count = function.kit, len(function.inputs)

    def call(*inputs: Any) -> Sequence[Any]:
        like_results = lambda *xs: tuple(function.call(*xs))
        return kit.jvp(like_results, inputs[:count], inputs[count:])

    return Function(kit, call, [*function.inputs, *tangents])
