"""The one thread that runs all stages of all jobs."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from ..errors import (
    CancelledError,
    DeadlineError,
    OutOfMemoryError,
    QueueFullError,
    RequestError,
    TooLongError,
    UnavailableError,
)
from ..jobs.job import Job
from ..ops._backend import KernelsUsed
from . import estimates
from .costs import SHAPES, Costs
from .events import Event
from .job import EngineJob
from .memory import activation_bytes, cache_bytes, watch
from .schedule import DeficitRoundRobin, due
from .stages import Queue, step


class Entry:
    """A job that has not ended, with what it is scheduled by. late: when its deadline passes."""

    def __init__(self, job: EngineJob, now: float, serial: int):
        assert job.stages is not None
        self.job, self.stages, self.serial = job, job.stages, serial
        self.queue: Queue = job.stages.queue
        self.late = None if job.deadline is None else now + job.deadline
        self.order = due(now, job.deadline, job.priority), serial

    def later(self, seconds: float) -> None:
        """Is due so much later."""
        self.order = self.order[0] + seconds, self.serial


class Driver:
    """Jobs that wait, run and are to be decoded, and the stage that each is at.

    A round (`turn`) has one step; before it come decodes and encodes, after it previews, of each
    one, or more where all together take no longer than the step: whoever runs waits for no more
    than that. Its thread alone calls the pipelines; other threads put jobs into `waiting` and take
    them out, under `lock`.
    """

    def __init__(self, costs: Costs, max_waiting: int, clock: Callable[[], float]):
        self.costs, self.max_waiting, self.clock = costs, max_waiting, clock
        self.lock = threading.Condition()
        self.waiting: list[Entry] = []
        self.running: list[Entry] = []
        #: (job, the step that is shown, what decodes its pictures).
        self.previews: list[tuple[Entry, tuple[int, int], Callable[[], Any]]] = []
        #: The shape that requests of a queue were last seen to have.
        self.shapes: dict[Queue, Hashable] = {}
        #: Called with (model, pictures, seconds) after every evaluation.
        self.observers: list[Callable[[str, int, float], None]] = []
        self.closing = False
        #: Set when its thread has nothing left to do. Waited for before the thread is joined: after
        #: a join that Ctrl-C interrupts, Python 3.11 takes the thread for ended.
        self.ended = threading.Event()
        self._fair = DeficitRoundRobin()
        self._serial = 0

    # --- from any thread --------------------------------------------------------------------------

    def submit(self, job: EngineJob) -> None:
        """Puts the job into the queue, or raises why not."""
        with self.lock:
            if self.closing:
                raise UnavailableError("engine: it has been closed and takes no more jobs")
            self._serial += 1
            entry = Entry(job, self.clock(), self._serial)
            if not estimates.fits(self, entry.queue):
                raise RequestError(
                    f"memory: expected pictures that fit into {self.costs.memory:,} bytes, given"
                    f" one of {entry.queue[1]}x{entry.queue[2]}, which takes more"
                )
            self.check_room()
            entry.later(estimates.unfinished(self, job.share))
            self._check_deadline(entry)
            self.waiting = sorted([*self.waiting, entry], key=lambda e: e.order)
            self._tell_places(entry)
            self.lock.notify_all()

    def check_room(self) -> None:
        """Raises QueueFullError where no other job may wait."""
        with self.lock:
            if len(self.waiting) >= self.max_waiting:
                raise QueueFullError(
                    f"max_waiting: expected at most {self.max_waiting} jobs that wait; the queue is"
                    " full",
                    estimates.next_place(self),
                )

    def _check_deadline(self, entry: Entry) -> None:
        """Raises DeadlineError where the job is not likely to be done by then."""
        deadline = entry.job.deadline
        if deadline is None:
            return
        alone = estimates.alone(self, entry)
        if alone > deadline:
            raise TooLongError(
                _SOONER.format(alone, "takes with nothing beside it", deadline),
                max(alone - deadline, 0.1),
            )
        if not (self.waiting or self.running):  # it may try, to learn that it has become faster
            return
        now = estimates.MARGIN * estimates.finish(self, entry)
        if now > deadline:
            raise DeadlineError(
                _SOONER.format(now, "is likely to take now", deadline), max(now - deadline, 0.1)
            )

    def cancelled(self, job: EngineJob) -> None:
        with self.lock:
            if any(entry.job is job for entry in self.waiting):
                self.waiting = [entry for entry in self.waiting if entry.job is not job]
                job.fail(_cancelled())
                self._tell_places()
            self.lock.notify_all()

    def interrupted(self, job: EngineJob) -> None:
        with self.lock:
            job.interrupted = True
            if any(entry.job is job for entry in self.waiting):
                job.cancel()
            self.lock.notify_all()

    def close(self, stop: bool = False) -> None:
        """Takes no more jobs; stop: and cancels those that there are."""
        with self.lock:
            self.closing = True
            if stop:
                for entry in [*self.waiting, *self.running]:
                    entry.job.cancel()
            self.lock.notify_all()

    # --- its thread -------------------------------------------------------------------------------

    def run(self) -> None:
        """Rounds, until it is closed and no job is left."""
        try:
            while True:
                with self.lock:
                    while not (self.waiting or self.running):
                        if self.closing:
                            return
                        self.lock.wait()
                self.turn()
        except BaseException as e:  # a fault of this module: nobody may wait for ever
            with self.lock:
                self.closing = True
                left, self.waiting, self.running = [*self.waiting, *self.running], [], []
            for entry in left:
                entry.job.fail(UnavailableError(f"engine: it has failed: {type(e).__name__}: {e}"))
            raise
        finally:
            self.ended.set()

    def turn(self) -> None:
        """One round of stages."""
        self._sweep()
        self._decode()
        self._encode()
        self._step()
        self._preview()

    def _sweep(self) -> None:
        """Ends jobs that were cancelled or are too late."""
        now = self.clock()
        for entry in [*self.waiting, *self.running]:
            if entry.stages.request.run.interrupted:
                self._fail(entry, _cancelled())
            elif entry.late is not None and now >= entry.late:
                text = f"deadline: passed after {entry.job.deadline:g} s"
                self._fail(entry, DeadlineError(text, max(estimates.alone(self, entry), 0.1)))

    def _too_late(self, entry: Entry) -> bool:
        """Whether a job that waits is not likely to be done by its deadline any more; fails it
        then: what would be spent on it is others'. As in `_check_deadline`, alone it may try.
        """
        if entry.late is None or not self.running:
            return False
        seconds, left = estimates.finish(self, entry), entry.late - self.clock()
        if seconds > left:
            words = _SOONER.format(seconds, "is likely to take from now on", max(left, 0.0))
            self._fail(entry, DeadlineError(words, max(seconds - left, 0.1)))
        return seconds > left

    def _fail(self, entry: Entry, error: Exception) -> None:
        self._remove(entry)
        entry.stages.abandon()
        entry.job.fail(error)

    def _remove(self, entry: Entry) -> None:
        with self.lock:
            waited = entry in self.waiting
            self.waiting = [e for e in self.waiting if e is not entry]
            self.running = [e for e in self.running if e is not entry]
            if waited:
                self._tell_places()
        self.previews = [shown for shown in self.previews if shown[0] is not entry]

    def _tell_places(self, new: Entry | None = None) -> None:
        """Tells `new`, and those that somebody follows, their places in the queue."""
        for place, entry in enumerate(self.waiting, 1):
            if entry is new or entry.job.events.followed:
                entry.job.events.add(Event("queued", place=place))

    # --- stages -----------------------------------------------------------------------------------

    def _timed(self, entry: Entry, stage: str, call: Callable[[], Any]) -> list[Any]:
        """[call()], whose error is the job's; nothing then."""
        begin = self.clock()
        try:
            made = call()
        except Exception as e:
            self._fail(entry, e)
            return []
        key = stage, entry.queue
        self.costs.staged(key, entry.stages.count, self.clock() - begin)
        return [made]

    def _decode(self) -> None:
        """The pictures of jobs that have no steps left, or take none, the most urgent first."""
        complete = [e for e in self.running if e.stages.complete or e.job.interrupted]
        for entry in self._while_a_step_waits(sorted(complete, key=lambda e: e.order)):
            while any(shown[0] is entry for shown in self.previews):
                self._show(entry)
            if entry not in self.running:
                continue
            for output in self._timed(entry, "decode", entry.stages.finish):
                self._remove(entry)
                entry.job.succeed(output)

    def _encode(self) -> None:
        """Prepares those that have room, the most urgent first."""
        for entry in self._while_a_step_waits(self.admissible()):
            with self.lock:
                if entry not in self.waiting or self._too_late(entry):  # or cancelled meanwhile
                    continue
                self.waiting.remove(entry)
                self.running.append(entry)
                self._tell_places()
            entry.job.events.add(Event("started"))
            prepare = partial(entry.stages.prepare, entry.job.previews)
            if self._timed(entry, "encode", prepare) and entry.stages.pictures:
                self.shapes.pop(entry.queue, None)
                self.shapes[entry.queue] = entry.stages.key(entry.stages.pictures[0])
                if len(self.shapes) > SHAPES:
                    self.shapes.pop(next(iter(self.shapes)))

    def _while_a_step_waits(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """One entry, and more for as long as the costliest step takes that waits meanwhile; all of
        them where none does.
        """
        groups = self._active()
        budget = max((self._cost(key, group) for key, group in groups.items()), default=None)
        begin = self.clock()
        for entry in entries:
            yield entry
            if budget is not None and self.clock() - begin >= budget:
                return

    def admissible(self) -> list[Entry]:
        """Those that wait and have room, in the order in which they are due. A queue has room for
        one evaluation's pictures; for as many again where they are due before all that run.
        """
        room: dict[Queue, int] = {}
        first: dict[Queue, tuple[float, int]] = {}
        for entry in self.running:
            room[entry.queue] = room.get(entry.queue, 0) + entry.stages.count
            first[entry.queue] = min(first.get(entry.queue, entry.order), entry.order)
        found = []
        with self.lock:
            waiting = list(self.waiting)
        for entry in waiting:
            used, cap = room.get(entry.queue, 0), self.cap(entry.queue)
            urgent = entry.queue in first and entry.order < first[entry.queue]
            if used == 0 or used + entry.stages.count <= cap * (2 if urgent else 1):
                room[entry.queue] = used + entry.stages.count
                found.append(entry)
        return found

    def cap(self, queue: Queue) -> int:
        """Pictures of an evaluation of requests of that queue."""
        key = self.shapes.get(queue)
        return 1 if key is None else self.costs.cap(key)

    def _active(self) -> dict[Hashable, list[tuple[Entry, Job]]]:
        """By shape, the pictures that have steps left."""
        found: dict[Hashable, list[tuple[Entry, Job]]] = {}
        for entry in self.running:
            for picture in entry.stages.pictures:
                if picture.active and not entry.job.interrupted:
                    found.setdefault(entry.stages.key(picture), []).append((entry, picture))
        return found

    def _cost(self, key: Hashable, group: Sequence[Any]) -> float:
        return self.costs.step(key, min(len(group), self.costs.cap(key)))

    def _step(self) -> None:
        """One evaluation, of the shape whose turn it is and its most urgent pictures."""
        groups = self._active()
        if not groups:
            return
        costs = {key: self._cost(key, group) for key, group in groups.items()}
        key = self._fair.pick(costs)
        group = sorted(groups[key], key=lambda pair: (pair[0].order, pair[1].index))
        # In the order in which they came, so that a batch of the same pictures stays as it is.
        chosen = sorted(group[: self.costs.cap(key)], key=lambda p: (p[0].serial, p[1].index))
        pipe, pictures = chosen[0][0].stages.pipe, [picture for _, picture in chosen]
        before, begin = 0 if self.costs.memory is None else watch(pipe), self.clock()
        try:
            used = step(pipe, pictures)
        except OutOfMemoryError as e:
            self.costs.out_of_memory(key, len(chosen))
            if len(chosen) == 1:
                self._fail(chosen[0][0], e)
            return
        except Exception as e:
            used = self._singly(chosen, e)
        else:
            seconds = self.clock() - begin
            self._fair.charge(key, seconds - costs[key])
            self._learn(key, pipe, pictures, seconds, before)
            for observer in self.observers:
                observer(chosen[0][0].job.model, len(pictures), seconds)
        for entry in dict.fromkeys(entry for entry, _ in chosen):
            own = [picture for other, picture in chosen if other is entry]
            self._stepped(entry, own, self.clock() - begin, used)

    def _learn(
        self, key: Hashable, pipe: Any, pictures: Sequence[Job], seconds: float, before: int
    ) -> None:
        """Takes note of what an evaluation has cost; before: see `watch`. The first of all its
        pictures is left out: a token model has its logits from when the texts were read.
        """
        if all(picture.evaluations == 1 and picture.active for picture in pictures):
            return
        self.costs.stepped(key, len(pictures), seconds)
        if self.costs.memory is None:
            return
        running = sum(e.stages.count for e in self.running if e.stages.pipe is pipe)
        caches = cache_bytes(pipe) * len(pictures) // running
        self.costs.took(key, len(pictures), activation_bytes(pipe) - before + caches)

    def _singly(self, chosen: Sequence[tuple[Entry, Job]], error: Exception) -> KernelsUsed:
        """A step of several has failed: each takes it alone, and who fails then was at fault."""
        used = KernelsUsed()
        for entry, picture in chosen:
            if not picture.active or entry not in self.running:
                continue
            try:
                if len(chosen) == 1:
                    raise error
                for op, labels in step(entry.stages.pipe, [picture]).items():
                    used.setdefault(op, []).extend(labels)
            except Exception as e:
                self._fail(entry, e)
        return used

    def _stepped(
        self, entry: Entry, pictures: Sequence[Job], seconds: float, used: KernelsUsed
    ) -> None:
        """These of a job's pictures have taken a step."""
        if entry not in self.running:
            return
        stages = entry.stages
        try:
            stages.stepped(pictures, seconds, used)
            done, total = stages.progress
            entry.job.events.add(Event("step", step=done, steps=total))
            if stages.due_preview():
                self.previews.append((entry, stages.progress, stages.snapshot()))
        except Exception as e:
            self._fail(entry, e)

    def _preview(self) -> None:
        """The pictures that are to be shown, those first that have waited longest."""
        for entry in self._while_a_step_waits([entry for entry, _, _ in self.previews]):
            if entry in self.running:
                self._show(entry)

    def _show(self, entry: Entry) -> None:
        """The oldest preview of the job that is not shown yet, if there is one."""
        found = next((shown for shown in self.previews if shown[0] is entry), None)
        if found is not None:
            self.previews.remove(found)
            _, (done, total), decode = found
            for images in self._timed(entry, "preview", decode):
                entry.job.events.add(Event("preview", step=done, steps=total, images=images))


#: What is said of a deadline that is too soon.
_SOONER = "deadline: expected at least {:.3g} s, as much as the job {}, given {:g}"


def _cancelled() -> CancelledError:
    return CancelledError("the job was cancelled")
