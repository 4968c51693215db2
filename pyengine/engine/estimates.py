"""When a job is likely to be done, from what stages cost: what requests are refused by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from .driver import Driver, Entry
    from .stages import Queue

#: Seconds after which it is worth to come again, at least.
SOONEST = 0.1
#: How many times what it is likely to take a new job's deadline must be, where others are there.
#: Under too much load all that are admitted are near this bound: without a margin half of them
#: would be done a little too late, and what was spent on them would be lost.
MARGIN = 1.25
#: Of a size that was never seen, what a pixel is said to cost of what it costs at sizes that were:
#: a part of an evaluation costs the same at any size, so that in proportion would be too much.
SHARE_BY_PIXEL = 0.5


def step(driver: "Driver", queue: "Queue", count: int) -> float:
    """Seconds of an evaluation of so many pictures of a queue."""
    key: Hashable | None = driver.shapes.get(queue)
    if key is not None:
        return driver.costs.step(key, count)
    return max(least_step(driver, queue, count), driver.costs.step(queue, count))


def least_step(driver: "Driver", queue: "Queue", count: int) -> float:
    """The least seconds that an evaluation of so many pictures may take: of a size that was never
    seen, from the model's sizes that were.
    """
    key: Hashable | None = driver.shapes.get(queue)
    if key is not None:
        return driver.costs.least_step(key, count)
    one = _of_smaller(driver, queue, lambda known: driver.costs.least_step(known, 1))
    return count * one or driver.costs.least_step(queue, count)


def fits(driver: "Driver", queue: "Queue") -> bool:
    """Whether one picture of a queue fits into the memory, as far as is known: of a size that was
    never seen, from the model's sizes that were.
    """
    costs = driver.costs
    if costs.memory is None:
        return True
    key = driver.shapes.get(queue)
    if key is not None:
        return costs.fits(key)
    return _of_smaller(driver, queue, costs.bytes) <= costs.memory


def _of_smaller(driver: "Driver", queue: "Queue", cost: "Callable[[Hashable], float]") -> float:
    """The least that a picture of a size that was never seen is said to cost, from the model's
    smaller sizes; 0 where none was seen.
    """
    model, height, width = queue
    seen = [
        SHARE_BY_PIXEL * height * width / (h * w) * cost(known)
        for (name, h, w), known in list(driver.shapes.items())
        if name == model and h * w <= height * width
    ]
    return max(seen, default=0.0)


def unfinished(driver: "Driver", share: str) -> float:
    """Seconds of work of the jobs of one share that have not ended; 0 for no share."""
    if not share:
        return 0.0
    jobs = [e for e in [*driver.waiting, *driver.running] if e.job.share == share]
    return sum(step(driver, e.queue, 1) * e.stages.left for e in jobs)


def alone(driver: "Driver", entry: "Entry") -> float:
    """The least seconds that the job takes from here on with nothing beside it."""
    count = min(entry.stages.count, driver.cap(entry.queue))
    seconds = least_step(driver, entry.queue, count) * entry.stages.left / count
    for stage in ("encode", "decode"):
        seconds += driver.costs.least_stage((stage, entry.queue), entry.stages.count)
    return seconds


@dataclass
class _Load:
    """Jobs of one queue, counted. left: evaluations of one picture; to_encode: jobs that wait."""

    jobs: int = 0
    pictures: int = 0
    left: int = 0
    to_encode: int = 0

    def seconds(self, driver: "Driver", queue: "Queue") -> float:
        """Of all their work, where each is in a full batch."""
        cap = driver.cap(queue)
        return step(driver, queue, cap) * self.left / cap + self.beside(driver, queue)

    def beside(self, driver: "Driver", queue: "Queue") -> float:
        """Of encoding and decoding, which is one job after the other."""
        count = -(-self.pictures // self.jobs)
        encode = driver.costs.stage(("encode", queue), count) * self.to_encode
        return encode + driver.costs.stage(("decode", queue), count) * self.jobs


def _loads(waiting: "Iterable[Entry]", running: "Iterable[Entry]") -> "dict[Queue, _Load]":
    found: dict[Queue, _Load] = {}
    for entries, to_encode in ((waiting, 1), (running, 0)):
        for entry in entries:
            load = found.get(entry.queue)
            if load is None:
                load = found[entry.queue] = _Load()
            load.jobs += 1
            load.pictures += entry.stages.count
            load.left += entry.stages.left
            load.to_encode += to_encode
    return found


def finish(driver: "Driver", entry: "Entry") -> float:
    """Seconds until a job that waits, or is new, is likely to be done: after the work of those of
    its queue that are due before it, in a batch with as many of them as have room, while every
    other queue takes as much time, or what its work takes where that is less.
    """
    queue, count, cap = entry.queue, entry.stages.count, driver.cap(entry.queue)
    loads = _loads([e for e in driver.waiting if e.order < entry.order], driver.running)
    own = loads.pop(queue, _Load())
    batch = min(cap, own.pictures + count)
    # Evaluations of those for which there is no room beside it, then its own.
    evaluations = entry.stages.left / min(count, batch)
    if own.pictures + count > cap:
        evaluations += own.left / cap
    seconds = step(driver, queue, batch) * evaluations
    own.jobs, own.to_encode, own.pictures = own.jobs + 1, own.to_encode + 1, own.pictures + count
    seconds += own.beside(driver, queue)
    others = [load.seconds(driver, other) for other, load in loads.items()]
    return seconds + sum(min(seconds, work) for work in others)


def remaining(driver: "Driver") -> float:
    """Seconds of work of all jobs that have not ended, where each is in a full batch."""
    with driver.lock:
        loads = _loads(driver.waiting, driver.running)
    return sum(load.seconds(driver, queue) for queue, load in loads.items())


def next_place(driver: "Driver") -> float:
    """Seconds until the queue is likely to have a place: those in which the running jobs end, one
    after the other.
    """
    running = driver.running
    work = sum(load.seconds(driver, queue) for queue, load in _loads((), running).items())
    return max(SOONEST, work / max(1, len(running)))
