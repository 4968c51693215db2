"""A server under load in simulated time: the engine's own driver, costs and schedule, over jobs
whose stages take the seconds that a test says and compute nothing.
"""

import heapq
import itertools
import random
from dataclasses import dataclass, field

from pyengine.engine import driver as driver_module
from pyengine.engine.costs import Costs
from pyengine.engine.driver import Driver
from pyengine.engine.job import EngineJob
from pyengine.errors import RefusedError


@dataclass(frozen=True)
class Kind:
    """One sort of request. side: of its queue; first, more: seconds of an evaluation of one
    picture, and of each one more. share: how many there are, against other kinds.
    """

    name: str
    side: int
    steps: int
    first: float
    more: float
    share: float
    encode: float = 0.007
    decode: float = 0.007

    @property
    def alone(self):
        """Seconds with nothing beside it."""
        return self.encode + self.steps * self.first + self.decode


class Picture:
    """What the driver asks of a job's picture."""

    def __init__(self, kind):
        self.kind, self.left, self.evaluations, self.index = kind, kind.steps, 0, 0

    @property
    def active(self):
        return self.left > 0


class FakeStages:
    """What the driver asks of Stages. spent: seconds of its part of stages, so far."""

    count, asked, pipe = 1, False, None

    def __init__(self, server, kind):
        self.server, self.kind, self.report = server, kind, None
        self.queue = "model", kind.side, kind.side
        self.pictures, self.spent = (), 0.0
        self.request = type("Request", (), {"run": Run()})

    @property
    def left(self):
        return self.pictures[0].left if self.pictures else self.kind.steps

    @property
    def complete(self):
        return all(not picture.active for picture in self.pictures)

    @property
    def progress(self):
        return self.kind.steps - self.left, self.kind.steps

    def key(self, picture):
        return self.queue

    def prepare(self, previews):
        self.server.spend(self.kind.encode, [self])
        self.pictures = (Picture(self.kind),)
        self.pictures[0].stages = self

    def stepped(self, pictures, seconds, used):
        pass

    def abandon(self):
        pass

    def due_preview(self):
        return False

    def finish(self):
        self.server.spend(self.kind.decode, [self])
        return self.kind.name


class Run:
    interrupted = False

    def interrupt(self):
        self.interrupted = True


@dataclass
class Told:
    """What became of the requests of a run. done: (kind, due, seconds) each. useful, wasted:
    seconds that were spent on jobs that were done, and on others. batches: pictures of every
    evaluation.
    """

    offered: int = 0
    refused: dict = field(default_factory=dict)
    failed: int = 0
    done: list = field(default_factory=list)
    useful: float = 0.0
    wasted: float = 0.0
    batches: list = field(default_factory=list)

    def within(self, begin, end):
        """Those done between two times."""
        return [kind for kind, due, seconds in self.done if begin <= due + seconds < end]

    def rate(self, begin, end):
        """Requests done a second, between two times."""
        return len(self.within(begin, end)) / (end - begin)

    def work(self, begin, end):
        """Their seconds alone, a second: how much faster than one at a time."""
        return sum(kind.alone for kind in self.within(begin, end)) / (end - begin)


class Simulated:
    """arrivals come whenever the time that stages spend passes them, as other threads' do."""

    def __init__(self, monkeypatch, max_waiting=64, longest_step=0.25, deadline=None):
        self.now, self.deadline, self.told = 0.0, deadline, Told()
        self.driver = Driver(Costs(longest_step), max_waiting, lambda: self.now)
        self._arrivals, self._serial = [], itertools.count()
        monkeypatch.setattr(driver_module, "step", self._step)

    def learn(self, kinds):
        """Each kind has been there alone and by twos, so that costs are known."""
        for kind, count in itertools.product(kinds, (1, 2)):
            for _ in range(count):
                self._submit(kind, None)
            self._drain()
        self.told = Told()

    def _submit(self, kind, then):
        due, stages = self.now, FakeStages(self, kind)
        job = EngineJob(self.driver, "model", stages, deadline=self.deadline)
        self.told.offered += 1
        try:
            self.driver.check_room()
            self.driver.submit(job)
        except RefusedError as e:
            name = type(e).__name__
            self.told.refused[name] = self.told.refused.get(name, 0) + 1
            if then is not None:  # such a client asks for something else, when it was told to
                self.at(self.now + e.retry_after, None, then)
            return

        def ended():
            if job._error is None:
                self.told.done.append((kind, due, self.now - due))
                self.told.useful += stages.spent
            else:
                self.told.failed += 1
                self.told.wasted += stages.spent
            if then is not None:
                then()

        job.when_done(ended)

    def at(self, due, kind, then=None):
        heapq.heappush(self._arrivals, (due, next(self._serial), kind, then))

    def spend(self, seconds, stages):
        for each in stages:
            each.spent += seconds / len(stages)
        self._pass(self.now + seconds)

    def _pass(self, until):
        while self._arrivals and self._arrivals[0][0] <= until:
            due, _, kind, then = heapq.heappop(self._arrivals)
            self.now = max(self.now, due)
            if kind is None:
                then()
            else:
                self._submit(kind, then)
        self.now = until

    def _step(self, pipe, pictures):
        kind = pictures[0].kind
        self.told.batches.append(len(pictures))
        self.spend(kind.first + kind.more * (len(pictures) - 1), [p.stages for p in pictures])
        for picture in pictures:
            picture.left, picture.evaluations = picture.left - 1, picture.evaluations + 1
        return {}

    def _drain(self):
        while self.driver.waiting or self.driver.running or self._arrivals:
            if not (self.driver.waiting or self.driver.running):
                self._pass(self._arrivals[0][0])
            self.driver.turn()

    def open_loop(self, kinds, rate, seconds, seed=0):
        """Poisson arrivals for so long; until all are answered."""
        chance, shares = random.Random(seed), [kind.share for kind in kinds]
        begin = due = self.now
        while (due := due + chance.expovariate(rate)) < begin + seconds:
            self.at(due, chance.choices(kinds, shares)[0])
        self._drain()
        return self.told

    def closed_loop(self, kinds, callers, seconds, seed=0):
        """So many callers ask again as soon as they are answered."""
        chance, shares = random.Random(seed), [kind.share for kind in kinds]
        end = self.now + seconds

        def ask():
            if self.now < end:
                self.at(self.now, chance.choices(kinds, shares)[0], ask)

        for _ in range(callers):
            ask()
        self._drain()
        return self.told
