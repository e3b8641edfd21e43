"""The words by which functions are told the mode of a call, and given a key for random numbers."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

TRAINING = ("training", "train", "is_training")
EVALUATION = ("deterministic", "inference", "use_running_average")
WORDS = (*TRAINING, *EVALUATION)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class CallWords:
    """What a function is told about a call, where it has parameters for it.

    Attributes:
        training: The mode, for `training`, `deterministic` and other such words.
        keys: The parameters that get a key for random numbers, and in which form.
        stored: Words whose values the module stores itself: a parameter that is None by default, to
            say that these decide, is left so.
    """

    training: bool
    keys: Mapping[str, Any]
    stored: Collection[str] = ()

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
        words = {
            p.name: value
            for p in parameters
            if p.name not in positional[: len(args)]
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            for value in self._values(p)
        }
        return fn(*args, **{**words, **kwargs})

    def _values(self, parameter: inspect.Parameter) -> list[Any]:
        """Return the value for a parameter, if there is one."""
        name = parameter.name
        if name in self.keys:
            return [self.keys[name]]
        if name in self.stored and parameter.default is None:
            return []
        modes = dict.fromkeys(TRAINING, self.training)
        modes |= dict.fromkeys(EVALUATION, not self.training)
        return [modes[name]] if name in modes else []

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
            is_key = parameter in required and parameter.name in self.keys
            if is_key and i <= len(filled) and (takes_more or len(filled) < len(required)):
                filled.insert(i, self.keys[parameter.name])
        return filled
