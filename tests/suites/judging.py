"""Verdicts about what a way finds for a question, by torch's answers and by differences."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bridge import BridgeError
from tests.suites import truth
from tests.suites.truth import MODES, Question

RIGHT, REFUSED, WRONG, RAISES = "right", "refused", "wrong", "raises"
# Beside the largest number of a result; single precision loses digits in sums and products.
_ROOM = {"float64": 1e-7, "complex128": 1e-7, "float32": 1e-3, "complex64": 1e-3}
_ROOM_OF_DIFFERENCES = 1e-4
_LONGEST_REASON = 300


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one mode of an operator.

    Attributes:
        operator: Its name in torch's records.
        dtype: Of its arguments.
        mode: Value, gradient and so on.
        outcome: Right, refused, wrong or raises, which is an error that is none of the library.
        reason: An error's text, or the difference.
    """

    operator: str
    dtype: str
    mode: str
    outcome: str
    reason: str = ""


def judged(question: Question, way: Any) -> Iterator[tuple[str, str, str]]:
    """Mode, outcome and reason of each mode that torch itself has an answer for."""
    answers = {mode: answer for mode in MODES if (answer := _answer(mode, question)) is not None}
    found = _found(question, way, list(answers))
    # Where the shape of a result is refused, a target has its own words for its cotangent's.
    shapeless = _is_ours(found.get("value"))
    for mode, mine in found.items():
        if isinstance(mine, Exception):
            outcome = REFUSED if shapeless or _is_ours(mine) else RAISES
            error = found["value"] if shapeless and not _is_ours(mine) else mine
            yield mode, outcome, f"{type(error).__name__}: {error}"[:_LONGEST_REASON]
            continue
        reason = _difference(mine, answers[mode]) and _settled(mode, question, mine, answers[mode])
        yield mode, WRONG if reason else RIGHT, reason or ""


def _answer(mode: str, question: Question) -> list[torch.Tensor] | None:
    """Torch's; `None` where it has none."""
    if mode in ("gradient", "tangent", "second order") and not question.flowing:
        return None
    try:
        return truth.ANSWERS[mode](question)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AssertionError):
        return None


def _found(question: Question, way: Any, modes: Sequence[str]) -> dict[str, Any]:
    """What a way finds in each mode, or the error that it raises."""
    try:
        asked = way.ask(question)
    except BridgeError as error:  # a result's dtype, of which the target has no cotangent
        return dict.fromkeys(modes, error)
    together = [mode for mode in modes if mode in way.at_once]
    found = _tried(asked, way, together)
    alone = [mode for mode in modes if mode not in found]
    for mode in alone:
        found |= _tried(asked, way, [mode], say=True)
    return found


def _tried(asked: Any, way: Any, modes: Sequence[str], *, say: bool = False) -> dict[str, Any]:
    try:
        return dict(zip(modes, way.answer(asked, modes), strict=True)) if modes else {}
    except Exception as error:  # noqa: BLE001, all of them are counted
        return {mode: error for mode in modes if say}


def _is_ours(error: Any) -> bool:
    """Whether the library raised an error on purpose, or XLA says that it did."""
    if not isinstance(error, BaseException):
        return False
    ours = isinstance(error, BridgeError) or any(
        f"{kind.__name__}: " in str(error) for kind in BridgeError.__subclasses__()
    )
    return ours or _is_ours(error.__cause__)


def _difference(mine: Sequence[np.ndarray], theirs: Sequence[torch.Tensor]) -> str | None:
    """What is different between two lists of results, `None` if nothing is."""
    if len(mine) != len(theirs):
        return f"{len(mine)} results instead of {len(theirs)}"
    for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
        y = _plain(y.to_dense() if y.is_sparse else y)
        expected = y.float().numpy() if y.dtype == torch.bfloat16 else y.numpy()
        if x.shape != expected.shape:
            return f"result {i} has shape {x.shape} instead of {expected.shape}"
        if y.dtype != torch.bfloat16 and x.dtype != expected.dtype:
            return f"result {i} has dtype {x.dtype} instead of {expected.dtype}"
        if not _close(x, expected, _ROOM.get(str(expected.dtype), 0)):
            return f"result {i} is {_short(x)} instead of {_short(expected)}"
    return None


def _numpy(x: torch.Tensor) -> np.ndarray:
    return _plain(x).numpy()


def _plain(x: torch.Tensor) -> torch.Tensor:
    """`x` with numbers in its memory, where torch may have put off to write them, even zeros."""
    return x.detach().resolve_conj().resolve_neg().clone()


def _close(x: np.ndarray, y: np.ndarray, room: float) -> bool:
    largest = np.max(np.abs(y), initial=0, where=np.isfinite(y)) if room else 0
    return np.allclose(x, y, rtol=room, atol=room * (1 + largest), equal_nan=True)


def _short(x: np.ndarray) -> str:
    return np.array2string(x.ravel()[:4], precision=6, threshold=4).replace("\n", "")


def _settled(
    mode: str, question: Question, mine: Sequence[np.ndarray], theirs: Sequence[torch.Tensor]
) -> str | None:
    """What is wrong, `None` if a more precise answer or differences say that nothing is."""
    precise = _precise(question) or question
    answer = _answer(mode, precise)
    converted = answer and [y.to(x.dtype) for x, y in zip(theirs, answer, strict=True)]
    if converted and not _difference(mine, converted):
        return None
    if mode in ("gradient", "tangent", "second order") and _agrees(mode, precise, mine):
        return None
    return _difference(mine, theirs)


def _precise(question: Question) -> Question | None:
    """The question in double precision, if it is in single."""
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    if not any(x.dtype in wide for x in question.sample.tensors):
        return None
    there = lambda xs: [x.to(wide.get(x.dtype, x.dtype)) for x in xs]
    return dataclasses.replace(
        question,
        sample=question.sample.with_tensors(there(question.sample.tensors)),
        cotangents=there(question.cotangents),
        tangents=there(question.tangents),
    )


def _agrees(mode: str, question: Question, mine: Sequence[np.ndarray]) -> bool:
    """Whether differences are as a way finds, where torch says otherwise."""
    found = [torch.from_numpy(np.array(x)) for x in mine]
    if mode != "tangent":
        found = [truth.inner(question.tangents, found)]
    expected = truth.differences(mode, question)
    return all(
        _close(x, y, max(_ROOM_OF_DIFFERENCES, _ROOM.get(str(x.dtype), 0)))
        for x, y in zip(map(_numpy, found), map(_numpy, expected), strict=True)
    )
