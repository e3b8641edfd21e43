"""How often a function without autodiff was evaluated, and what its derivatives drew."""

import threading
from typing import Any


class EvaluationCounters:
    """The numbers of points and of calls so far, and the lock that calls take.

    Few solvers and simulators can be called from several threads at the same time.

    Attributes:
        evaluations: The number of points.
        calls: The number of calls.
        lock: The lock.
        generators: The generators of random directions, by rule.
    """

    def __init__(self) -> None:
        self.evaluations = self.calls = 0
        self.lock = threading.RLock()
        self.generators: dict[Any, Any] = {}
