"""How often a function without autodiff was evaluated."""

import threading


class EvaluationCounters:
    """The numbers of points and of calls so far, and the lock that calls take.

    Few solvers and simulators can be called from several threads at the same time.
    """

    def __init__(self) -> None:
        self.evaluations = self.calls = 0
        self.lock = threading.RLock()
