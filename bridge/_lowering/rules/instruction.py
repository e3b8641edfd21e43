"""One operation of a program, as a rule sees it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bridge._core.errors import NoRuleError
from bridge._core.spec import ArraySpec


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
    """A word with all that is known of its operands when it is lowered.

    Attributes:
        word: The word.
        inputs: The specs of the operands.
        outputs: The specs of the results.
        parameters: The parameters of the word.
        constants: For each operand the NumPy array that it is, None for one that is computed.
        function_name: The name of the user's function.
    """

    word: str
    inputs: tuple[ArraySpec, ...]
    outputs: tuple[ArraySpec, ...]
    parameters: Mapping[str, Any]
    constants: tuple[Any, ...]
    function_name: str

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter]

    @property
    def dtype(self) -> str:
        """The dtype of the first result."""
        return self.outputs[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return self.outputs[0].shape

    def refuse(self, reason: str) -> NoRuleError:
        """Return the error for what no target can compute."""
        return NoRuleError(
            f"`{self.word}` of {self.function_name} cannot become code of the caller's framework: "
            f"{reason} Write it otherwise, or leave out lower=, so that the source computes."
        )
