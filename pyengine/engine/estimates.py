"""When a job is likely to be done, from what stages cost: what requests are refused by."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .driver import Driver, Entry

#: Seconds after which it is worth to come again, at least.
SOONEST = 0.1


def alone(driver: "Driver", entry: "Entry") -> float:
    """Seconds that the job would take from here on with nothing beside it."""
    costs, stages = driver.costs, entry.stages
    key = driver.shapes.get(entry.queue, entry.queue)
    count = min(stages.count, driver.cap(entry.queue))
    seconds = costs.step(key, count) * stages.left / count
    for stage in ("encode", "decode"):
        seconds += costs.stage((stage, entry.queue), stages.count)
    return seconds


def finish(driver: "Driver", entry: "Entry") -> float:
    """Seconds until a new job is likely to be done: its steps in a batch with those of its queue
    that run, after those that wait and are due before it, while other queues get as much time.
    """
    costs, queue = driver.costs, entry.queue
    key, cap = driver.shapes.get(queue, queue), driver.cap(queue)
    ahead = [e for e in driver.waiting if e.order < entry.order]
    before = [e for e in [*driver.running, *ahead] if e.queue == queue]
    pictures = sum(e.stages.count for e in before)
    batch = min(cap, pictures + entry.stages.count)
    # Evaluations of those for which there is no room beside it, then its own.
    evaluations = entry.stages.left / min(entry.stages.count, batch)
    if pictures + entry.stages.count > cap:
        evaluations += sum(e.stages.left for e in before) / cap
    seconds = costs.step(key, batch) * evaluations
    others = len({e.queue for e in [*driver.running, *ahead]} - {queue})
    own = costs.stage(("encode", queue), entry.stages.count)
    own += costs.stage(("decode", queue), entry.stages.count)
    return seconds * (1 + others) + own


def next_place(driver: "Driver") -> float:
    """Seconds until the queue is likely to have a place: those in which the running jobs end, one
    after the other.
    """
    work = 0.0
    for entry in driver.running:
        key, cap = driver.shapes.get(entry.queue, entry.queue), driver.cap(entry.queue)
        work += driver.costs.step(key, cap) * entry.stages.left / cap
    return max(SOONEST, work / max(1, len(driver.running)))
