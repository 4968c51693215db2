"""When a job is likely to be done, from what stages cost: what requests are refused by."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from .driver import Driver, Entry
    from .stages import Queue

#: Seconds after which it is worth to come again, at least.
SOONEST = 0.1


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


def finish(driver: "Driver", entry: "Entry") -> float:
    """Seconds until a new job is likely to be done: its steps in a batch with those of its queue
    that run, after those that wait and are due before it, while other queues get as much time.
    """
    costs, queue = driver.costs, entry.queue
    cap = driver.cap(queue)
    ahead = [e for e in driver.waiting if e.order < entry.order]
    before = [e for e in [*driver.running, *ahead] if e.queue == queue]
    pictures = sum(e.stages.count for e in before)
    batch = min(cap, pictures + entry.stages.count)
    # Evaluations of those for which there is no room beside it, then its own.
    evaluations = entry.stages.left / min(entry.stages.count, batch)
    if pictures + entry.stages.count > cap:
        evaluations += sum(e.stages.left for e in before) / cap
    seconds = step(driver, queue, batch) * evaluations
    others = len({e.queue for e in [*driver.running, *ahead]} - {queue})
    own = costs.stage(("encode", queue), entry.stages.count)
    own += costs.stage(("decode", queue), entry.stages.count)
    return seconds * (1 + others) + own


def remaining(driver: "Driver") -> float:
    """Seconds of work of all jobs that have not ended, where each is in a full batch."""
    with driver.lock:
        waiting, running = list(driver.waiting), list(driver.running)
    seconds = _stepping(driver, [*waiting, *running])
    for stage, entries in (("encode", waiting), ("decode", [*waiting, *running])):
        for entry in entries:
            seconds += driver.costs.stage((stage, entry.queue), entry.stages.count)
    return seconds


def _stepping(driver: "Driver", entries: "Iterable[Entry]") -> float:
    """Seconds of the steps that jobs have left, as their parts of full batches."""
    left: dict[Queue, int] = {}
    for entry in entries:
        left[entry.queue] = left.get(entry.queue, 0) + entry.stages.left
    seconds = 0.0
    for queue, evaluations in left.items():
        cap = driver.cap(queue)
        seconds += step(driver, queue, cap) * evaluations / cap
    return seconds


def next_place(driver: "Driver") -> float:
    """Seconds until the queue is likely to have a place: those in which the running jobs end, one
    after the other.
    """
    work = _stepping(driver, driver.running)
    return max(SOONEST, work / max(1, len(driver.running)))
