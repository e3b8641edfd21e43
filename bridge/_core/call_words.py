"""The words by which functions are told the mode of a call, and given a key for random numbers."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

_TRAINING = ("training", "train", "is_training")
EVALUATION = ("deterministic", "inference", "use_running_average")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class CallWords:
    """What a function is told about a call, where it has parameters for it.

    Attributes:
        training: The mode, for `training`, `deterministic` and other such words.
        key: A key for random numbers.
        key_names: The parameters that get the key.
    """

    training: bool
    key: Any
    key_names: tuple[str, ...]

    def call(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call `fn`; what is among the arguments wins.

        A parameter for a key that stands before those of the caller, as in Haiku, is filled by
        position.
        """
        try:
            parameters = [*inspect.signature(fn).parameters.values()]
        except (TypeError, ValueError):  # some builtins have no signature
            return fn(*args, **kwargs)
        args = self._with_required_key(parameters, args, kwargs)
        positional = [p.name for p in parameters if p.kind in _POSITIONAL]
        values = dict.fromkeys(_TRAINING, self.training)
        values |= dict.fromkeys(EVALUATION, not self.training)
        values |= dict.fromkeys(self.key_names, self.key)
        words = {
            p.name: values[p.name]
            for p in parameters
            if p.name in values and p.name not in positional[: len(args)]
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        return fn(*args, **{**words, **kwargs})

    def _with_required_key(
        self,
        parameters: Sequence[inspect.Parameter],
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> list[Any]:
        """Return the arguments with a key where one is required that the caller has not passed."""
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        required = [p for p in positional if p.default is p.empty and p.name not in kwargs]
        takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        filled = list(args)
        for i, parameter in enumerate(positional):
            is_key = parameter in required and parameter.name in self.key_names
            if is_key and i <= len(filled) and (takes_more or len(filled) < len(required)):
                filled.insert(i, self.key)
        return filled
