"""What stages cost, learned as they run, and how many pictures an evaluation may have for it."""

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

#: How much the newest measurement counts.
NEWEST = 0.25
#: Shapes that are remembered; those not seen for longest are forgotten.
SHAPES = 256
#: Seconds that an evaluation and another stage take at least, before any was measured: less than
#: any model needs, so that no deadline is refused for them that could be met.
LEAST_STEP, LEAST_STAGE = 1e-4, 5e-4
#: Evaluations after which a batch that memory has halved may grow by one again.
GROWS_AFTER = 64


class Curve:
    """Seconds by number of pictures, an exponentially weighted mean for each number, and the least
    that were measured.
    """

    def __init__(self) -> None:
        self._mean: dict[int, float] = {}
        self._least: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        #: Numbers that were measured, in order. Made anew rather than changed: other threads read
        #: it while the engine's learns.
        self._known: tuple[int, ...] = ()
        #: Measurements, and what `most_within` was last asked and answered, after how many.
        self._measured = 0
        self._within: tuple[tuple[int, float, int], int] | None = None

    def add(self, count: int, seconds: float) -> None:
        seen = self._seen.get(count, 0)
        mean = self._mean.get(count, seconds)
        if seen == 1 and seconds < mean:  # the first of a shape also fills caches
            mean = seconds
        self._mean[count] = mean + NEWEST * (seconds - mean)
        self._seen[count] = seen + 1
        self._least[count] = min(seconds, self._least.get(count, seconds))
        if seen == 0:
            self._known = tuple(sorted(self._mean))
        self._measured += 1

    def at(self, count: int) -> float | None:
        """For a number that was never measured: from the next smaller one in proportion, or the
        next greater one's; both are upper bounds. None where nothing is known.
        """
        mean = self._mean.get(count)
        if mean is not None:
            return mean
        known = self._known
        place = bisect_left(known, count)
        below = self._mean[known[place - 1]] * count / known[place - 1] if place else None
        above = self._mean[known[place]] if place < len(known) else None
        if below is None or above is None:
            return above if below is None else below
        return min(below, above)

    def most_within(self, seconds: float, most: int) -> int:
        """The greatest number up to `most` that takes no longer, 1 where none does. The answer is
        kept until the next measurement: it is asked for every job that waits.
        """
        asked = self._measured, seconds, most
        kept = self._within
        if kept is not None and kept[0] == asked:
            return kept[1]
        count = max(most, 1)
        while count > 1 and (self.at(count) or 0.0) > seconds:
            count -= 1
        self._within = asked, count
        return count

    def least(self, count: int) -> float | None:
        """The least seconds that so many pictures may take: those of a smaller number, or a part of
        a greater one's. None where nothing is known.
        """
        known = self._known
        place = bisect_left(known, count)
        if place < len(known) and known[place] == count:
            return self._least[count]
        if place:
            return max(self._least[n] for n in known[:place])
        return min((self._least[n] * count / n for n in known), default=None)


class _Recent(Generic[T]):
    """Values by key, made where they are not there; of more than SHAPES those that were not asked
    for the longest are forgotten. Safe from any thread.
    """

    def __init__(self, make: Callable[[], T]):
        self._make, self._known = make, OrderedDict[Hashable, T]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, key: Hashable) -> T:
        with self._lock:
            if key not in self._known:
                self._known[key] = self._make()
                if len(self._known) > SHAPES:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]


class _Shape:
    """What is known of one shape. most: pictures that fit into memory; bytes: of one picture."""

    def __init__(self) -> None:
        self.steps = Curve()
        self.most: int | None = None
        self.since = 0
        self.bytes: float | None = None


class Costs:
    """Seconds and bytes by shape.

    longest: seconds that an evaluation may take, where one picture alone takes no longer. memory:
    bytes that the pictures of an evaluation may take together, None: no bound but the machine's.
    """

    def __init__(self, longest: float, memory: int | None = None, most: int = 64):
        self.longest, self.memory, self.most = longest, memory, most
        self._shapes = _Recent(_Shape)
        self._stages = _Recent(Curve)

    def _of(self, key: Hashable) -> _Shape:
        return self._shapes[key]

    def step(self, key: Hashable, count: int) -> float:
        """Seconds of an evaluation of so many pictures."""
        return self._of(key).steps.at(count) or LEAST_STEP

    def least_step(self, key: Hashable, count: int) -> float:
        """The least seconds that an evaluation of so many pictures may take: the mean follows a
        machine that is busy, and no request may be refused for ever for that.
        """
        return self._of(key).steps.least(count) or LEAST_STEP

    def stepped(self, key: Hashable, count: int, seconds: float) -> None:
        shape = self._of(key)
        shape.steps.add(count, seconds)
        if shape.most is not None and count >= shape.most:
            shape.since += 1
            if shape.since >= GROWS_AFTER:
                shape.most, shape.since = shape.most + 1, 0

    def stage(self, key: Hashable, count: int = 1) -> float:
        """Seconds of another stage, such as ("encode", queue), for so many pictures."""
        return self._stages[key].at(count) or LEAST_STAGE

    def least_stage(self, key: Hashable, count: int = 1) -> float:
        """The least seconds of another stage."""
        return self._stages[key].least(count) or LEAST_STAGE

    def staged(self, key: Hashable, count: int, seconds: float) -> None:
        self._stages[key].add(count, seconds)

    def out_of_memory(self, key: Hashable, count: int) -> None:
        """An evaluation of so many pictures did not fit: half of them from now on."""
        shape = self._of(key)
        shape.most, shape.since = max(1, count // 2), 0

    def took(self, key: Hashable, count: int, size: int) -> None:
        """An evaluation of so many pictures needed `size` bytes."""
        shape = self._of(key)
        if size > 0:
            shape.bytes = min(size / count, shape.bytes or float("inf"))

    def bytes(self, key: Hashable) -> float:
        """Of one picture of an evaluation, as far as is known."""
        return self._of(key).bytes or 0.0

    def fits(self, key: Hashable) -> bool:
        """Whether one picture fits into `memory`, as far as is known."""
        size = self._of(key).bytes
        return self.memory is None or size is None or size <= self.memory

    def cap(self, key: Hashable) -> int:
        """Pictures that an evaluation may have. Of a shape that was never measured: one."""
        shape = self._of(key)
        if shape.steps.at(1) is None:
            return 1
        cap = self.most if shape.most is None else min(shape.most, self.most)
        if self.memory is not None and shape.bytes:
            cap = min(cap, int(self.memory // shape.bytes))
        return shape.steps.most_within(self.longest, cap)
