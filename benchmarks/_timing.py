"""Interleaved timing: every contender runs in every round, so that a busy machine hits all."""

import gc
import random
import time
from collections.abc import Callable, Mapping

Step = Callable[[], object]

# A block shorter than this would measure the clock, and one interruption would decide a round.
_BLOCK_SECONDS = 0.008
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 300


def timed(
    contenders: Mapping[str, Step], *, seconds: float, scale: float
) -> dict[str, list[float]]:
    """What a call of each contender takes, one value a round: seconds times `scale`.

    As many rounds are run as fit into `seconds`. Each has an order of its own: what runs after a
    contender of the same code finds it in the caches of the processor.
    """
    calls = {name: _calls(step) for name, step in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names, order = list(contenders), random.Random(0)
    gc.collect()
    gc.freeze()  # or each collection would go through all that the peers have imported
    end = time.perf_counter() + seconds
    for done in range(_MOST_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() > end:
            break
        order.shuffle(names)
        for name in names:
            taken[name].append(_block(contenders[name], calls[name]) * scale)
    gc.unfreeze()
    return taken


def _calls(step: Step) -> int:
    """How many calls make a block; warms up."""
    once = min(_block(step, 1) for _ in range(4))
    return max(1, int(_BLOCK_SECONDS / once))


def _block(step: Step, calls: int) -> float:
    """Seconds a call takes, the mean over a block of them."""
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls
