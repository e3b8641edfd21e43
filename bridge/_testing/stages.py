"""Derivatives of implementations, each at inputs of its own."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    """

    word: Word
    functions: Mapping[str, Function]
    input_labels: Sequence[str]
    output_labels: Sequence[str]

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
        some = next(iter(results))
        word = (*self.word, transform)
        inputs, outputs = list(self.input_labels), list(self.output_labels)
        derive: Callable[[str, Function], Function]
        if transform == "vjp":
            drawn = arrays.draw(results[some], random)
            derive = lambda label, f: _vjp(f, arrays.cast(drawn, results[label]))
            input_labels = [*inputs, *(f"the cotangent of {name}" for name in outputs)]
            outputs = [f"the gradient by {name}" for name in inputs]
        elif transform == "jvp":
            drawn = arrays.draw(self.functions[some].inputs, random)
            derive = lambda label, f: _jvp(f, arrays.cast(drawn, self.functions[label].inputs))
            input_labels = [*inputs, *(f"the tangent of {name}" for name in inputs)]
            outputs = [f"the tangent of {name}" for name in outputs]
        else:
            derive = lambda _, f: Function(f.kit, f.kit.vmap(f.call), map_batch(f.inputs))
            input_labels = inputs
        functions = {k: derive(k, f) for k, f in self.functions.items() if k in results}
        return Stage(word, functions, input_labels, outputs)


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
    return Stage((), functions, arguments.primal_labels, output_labels)


def map_batch(inputs: Sequence[Any]) -> list[Any]:
    """Return a batch of examples of each input."""
    return [arrays.batch(x) for x in inputs]


def _vjp(function: Function, cotangents: Sequence[Any]) -> Function:
    """Return the gradients of a function, in torch's convention."""
    kit, count = function.kit, len(function.inputs)

    def call(*inputs: Any) -> Sequence[Any]:
        primals, given = inputs[:count], kit.turn_convention(inputs[count:])
        like_results = lambda *xs: tuple(function.call(*xs))
        return kit.turn_convention(kit.vjp(like_results, primals, given))

    return Function(kit, call, [*function.inputs, *cotangents])


def _jvp(function: Function, tangents: Sequence[Any]) -> Function:
    """Return the tangents of the results of a function."""
    kit, count = function.kit, len(function.inputs)

    def call(*inputs: Any) -> Sequence[Any]:
        like_results = lambda *xs: tuple(function.call(*xs))
        return kit.jvp(like_results, inputs[:count], inputs[count:])

    return Function(kit, call, [*function.inputs, *tangents])
