"""Derivatives of a function without autodiff as sums of terms, of any order and in any batch.

NOTE [terms]
Whatever vjp, jvp and vmap make of such a function, in any order, each result is a sum of terms

    <w, D^k f(x) [v_1, ..., v_r, .]>

with k directions, of which the last may be left open: then the term is a gradient, and there is a
cotangent w; else it is a value of the function or a tangent. So the form is closed, and what a
derivative of any order needs of f is known before any of it is computed: values at points that
follow from the primals, and for differences from directions. Cotangents, and directions in which a
rule goes element by element, only weigh values: a Jacobian by rows needs no more of them than a
gradient does.

NOTE [labels of batches]
A batch is a label, the number of a vmap. Each input and each result says which labels it has, and
at which axis. A result is the sum over the labels that it lacks: the gradient of an argument that
all examples share is the sum of theirs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from bridge._core.op import Positions

Axes = tuple[tuple[int, int], ...]  # label and axis, of the outermost batch first


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a derivative.

    Attributes:
        kind: What it is to the function; an output is one that is known already.
        position: The primal that it is, or is a tangent of; the output that it is, or is a
            cotangent of.
        axes: Its batches: NOTE [labels of batches].
    """

    kind: Literal["primal", "output", "cotangent", "tangent"]
    position: int
    axes: Axes = ()


@dataclasses.dataclass(frozen=True)
class Term:
    """One term: NOTE [terms].

    Attributes:
        outnum: The output of the function.
        cotangent: The input that is the cotangent, if there is one.
        tangents: The inputs that are directions.
        argnum: The primal whose direction is left open, if one is.
    """

    outnum: int
    cotangent: int | None = None
    tangents: Positions = ()
    argnum: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """A sum of terms.

    Attributes:
        kind: A value or tangent of an output, or a gradient by a primal.
        position: The output or the primal.
        axes: Its batches: NOTE [labels of batches].
        terms: The terms.
    """

    kind: Literal["output", "gradient"]
    position: int
    axes: Axes
    terms: tuple[Term, ...]


@dataclasses.dataclass(frozen=True)
class Form:
    """A derivative: its inputs, and its results as sums of terms.

    Attributes:
        inputs: The inputs, the primals first.
        results: The results.
        sizes: The size of each batch, by label.
    """

    inputs: tuple[Input, ...]
    results: tuple[Result, ...]
    sizes: tuple[int, ...] = ()

    @property
    def is_derivative(self) -> bool:
        """True unless all results are outputs of the function."""
        return any(
            term.tangents or term.argnum is not None for y in self.results for term in y.terms
        )

    def vmap(self, axes: Sequence[int | None], size: int) -> "Form":
        """Return the form of a batch, which has axis 0 of each result."""
        label = len(self.sizes)
        inputs = [
            x if axis is None else dataclasses.replace(x, axes=((label, axis), *x.axes))
            for x, axis in zip(self.inputs, axes, strict=True)
        ]
        results = [dataclasses.replace(y, axes=((label, 0), *y.axes)) for y in self.results]
        return Form(tuple(inputs), tuple(results), (*self.sizes, size))

    def jvp(self, argnums: Positions, outnums: Positions) -> "Form":
        """Return the tangents of results; tangents of inputs are inputs after the others."""
        count = len(self.inputs)
        added = [_tangent_of(self.inputs[i]) for i in argnums]
        moves = [*enumerate(argnums, count)]
        results = [
            dataclasses.replace(
                result,
                terms=tuple(
                    moved
                    for term in result.terms
                    for tangent, argnum in moves
                    for moved in self._terms_of_tangent(term, argnum, tangent)
                ),
            )
            for result in (self.results[i] for i in outnums)
        ]
        return dataclasses.replace(self, inputs=(*self.inputs, *added), results=tuple(results))

    def _terms_of_tangent(self, term: Term, argnum: int, tangent: int) -> list[Term]:
        """Return the derivative of a term by one input in the direction of another."""
        if self.inputs[argnum].kind == "primal":
            return [dataclasses.replace(term, tangents=(*term.tangents, tangent))]
        if argnum == term.cotangent:
            return [dataclasses.replace(term, cotangent=tangent)]
        if argnum in term.tangents:
            tangents = tuple(tangent if i == argnum else i for i in term.tangents)
            return [dataclasses.replace(term, tangents=tangents)]
        return []

    def vjp(self, argnums: Positions, outnums: Positions) -> "Form":
        """Return the gradients of inputs; cotangents of results are inputs after the others."""
        count = len(self.inputs)
        added = [
            Input("cotangent" if y.kind == "output" else "tangent", y.position, y.axes)
            for y in (self.results[i] for i in outnums)
        ]
        results = [
            Result(
                kind="output" if self.inputs[argnum].kind == "cotangent" else "gradient",
                position=self.inputs[argnum].position,
                axes=self.inputs[argnum].axes,
                terms=tuple(
                    pulled
                    for cotangent, outnum in enumerate(outnums, count)
                    for term in self.results[outnum].terms
                    for pulled in self._terms_of_gradient(term, argnum, cotangent)
                ),
            )
            for argnum in argnums
        ]
        return dataclasses.replace(self, inputs=(*self.inputs, *added), results=tuple(results))

    def _terms_of_gradient(self, term: Term, argnum: int, cotangent: int) -> list[Term]:
        """Return the gradient of a term by one input for the cotangent that is another."""
        x = self.inputs[argnum]
        if term.argnum is None:
            term = dataclasses.replace(term, cotangent=cotangent)
        else:  # the cotangent of a gradient is the direction that was left open
            term = dataclasses.replace(term, tangents=(*term.tangents, cotangent), argnum=None)
            if argnum == term.cotangent:
                return [dataclasses.replace(term, cotangent=None)]
        if x.kind == "primal":
            return [dataclasses.replace(term, argnum=x.position)]
        if argnum in term.tangents:
            tangents = tuple(i for i in term.tangents if i != argnum)
            return [dataclasses.replace(term, tangents=tangents, argnum=x.position)]
        return []

    def with_outputs(self, primal_count: int, outputs: Sequence[Result]) -> "Form":
        """Return the form with known outputs of the function as inputs after the primals."""
        added = [Input("output", y.position, y.axes) for y in outputs]

        def move(i: int) -> int:
            return i if i < primal_count else i + len(added)

        results = [
            dataclasses.replace(
                result,
                terms=tuple(
                    dataclasses.replace(
                        term,
                        cotangent=None if term.cotangent is None else move(term.cotangent),
                        tangents=tuple(map(move, term.tangents)),
                    )
                    for term in result.terms
                ),
            )
            for result in self.results
        ]
        inputs = (*self.inputs[:primal_count], *added, *self.inputs[primal_count:])
        return dataclasses.replace(self, inputs=inputs, results=tuple(results))


def _tangent_of(x: Input) -> Input:
    """Return the tangent of an input; one of a linear input takes its place in terms."""
    return dataclasses.replace(x, kind="tangent") if x.kind == "primal" else x


def function_form(primal_count: int, output_count: int) -> Form:
    """Return the form of the function itself."""
    inputs = tuple(Input("primal", i) for i in range(primal_count))
    results = tuple(Result("output", i, (), (Term(i),)) for i in range(output_count))
    return Form(inputs, results)
