"""What is hard, once: words in terms of the easy operations that a target supplies."""

from collections.abc import Callable
from typing import Any

from bridge._lowering.operations import Operations
from bridge._lowering.rules import (
    control,
    elements,
    indexing,
    integers,
    products,
    reductions,
    shapes,
    windows,
)
from bridge._lowering.rules.instruction import Instruction

Rule = Callable[[Instruction, Any], Callable[..., Any]]
_RULES: dict[str, Rule] = {
    **elements.RULES,
    **integers.RULES,
    **shapes.RULES,
    **reductions.RULES,
    **indexing.RULES,
    **products.RULES,
    **windows.RULES,
    **control.RULES,
}


def find_rule(instruction: Instruction, operations: Operations) -> Callable[..., Any]:
    """Return what computes an instruction on arrays of a target: NOTE [rules are asked once]."""
    word = instruction.word
    rule = operations.rules.get(word) or _RULES.get(word)
    if rule is not None:
        return rule(instruction, operations)
    if word not in operations.native:
        raise instruction.refuse("there is no code for this word.")
    return integers.wrapped(instruction, operations, operations.native[word])
