"""Who is next: shapes take turns by time, the jobs of a shape go by when they are due."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)

#: Seconds after which a job without a deadline is due. Jobs that come later are due later, so none
#: waits for ever behind those with deadlines.
PATIENCE = 60.0
#: Seconds that a job is due earlier for each unit of priority.
PRIORITY = 10.0


def due(submitted: float, deadline: float | None, priority: int) -> float:
    """When a job is due, on the clock of `submitted`; the earliest goes first. deadline: in seconds
    from then.
    """
    patience = PATIENCE if deadline is None else min(deadline, PATIENCE)
    return submitted + patience - PRIORITY * priority


class DeficitRoundRobin:
    """Shares time equally between keys whose turns cost differently (Shreedhar & Varghese 1995).

    Each round a key is given as much time as the cheapest turn costs, and takes turns as long as
    what it was given suffices; the rest is kept while it has work.
    """

    def __init__(self) -> None:
        self._order: list[Hashable] = []
        self._has: dict[Hashable, float] = {}

    def pick(self, costs: Mapping[K, float]) -> K:
        """Whose turn it is. costs: seconds of the next turn, of every key that has work."""
        self._order = [key for key in self._order if key in costs]
        self._order += [key for key in costs if key not in self._has]
        self._has = {key: self._has.get(key, 0.0) for key in self._order}
        quantum = min(costs.values())
        if self._order and all(self._has[key] < costs[key] for key in costs):
            # Whole rounds in which nobody could take a turn, at once.
            rounds = min(int((costs[key] - self._has[key]) / quantum) for key in costs)
            for key in costs:
                self._has[key] += max(0, rounds - 1) * quantum
        while True:
            for key in costs:
                if key == self._order[0] and self._has[key] >= costs[key]:
                    self._has[key] -= costs[key]
                    return key
            self._order.append(self._order.pop(0))
            self._has[self._order[0]] += quantum

    def charge(self, key: Hashable, seconds: float) -> None:
        """The last turn of `key` took so much longer than was said."""
        if key in self._has:
            self._has[key] -= seconds
