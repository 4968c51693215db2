"""An engine that is asked for ten times what it can do, in simulated time."""

import pytest
from simulated import Kind, Simulated

from pyengine.errors import DeadlineError

#: The shipped emoji model's seconds on two cores of a Xeon with AMX.
FEW = Kind("4 steps", 64, 4, 0.0175, 0.0047, 50)
MORE = Kind("20 steps", 64, 20, 0.0175, 0.0047, 25)
TWICE = Kind("twice the side", 128, 12, 0.033, 0.0165, 10, decode=0.015)
SECONDS = 20.0


def run(monkeypatch, kinds, deadline, how):
    """What becomes of requests, and from when on."""
    server = Simulated(monkeypatch, deadline=deadline)
    server.learn(kinds)
    begin = server.now
    return how(server), begin


@pytest.mark.parametrize("deadline", [None, 3.0])
def test_ten_times_capacity_does_as_much_as_capacity(monkeypatch, deadline):
    """With a deadline that a full queue would miss, too: what is admitted is done in time, and
    nothing is spent on what is not.
    """
    told, begin = run(monkeypatch, [FEW], deadline, lambda s: s.closed_loop([FEW], 24, SECONDS))
    capacity = told.rate(begin, begin + SECONDS)
    told, begin = run(
        monkeypatch, [FEW], deadline, lambda s: s.open_loop([FEW], 10 * capacity, SECONDS)
    )
    assert told.rate(begin, begin + SECONDS) > 0.95 * capacity
    assert told.failed == 0
    assert told.wasted == 0.0
    assert told.offered == len(told.done) + sum(told.refused.values())
    assert sum(told.refused.values()) > 0.8 * told.offered


def test_sizes_and_steps_share_what_there_is(monkeypatch):
    """Of each kind about as many are done as at capacity: none crowds the others out."""
    kinds = [FEW, MORE, TWICE]
    told, begin = run(monkeypatch, kinds, None, lambda s: s.closed_loop(kinds, 24, 40.0, seed=1))
    at_capacity, rate = told.work(begin, begin + 40.0), told.rate(begin, begin + 40.0)
    told, begin = run(
        monkeypatch, kinds, None, lambda s: s.open_loop(kinds, 10 * rate, 40.0, seed=2)
    )
    assert told.work(begin, begin + 40.0) > 0.95 * at_capacity
    done = told.within(begin, begin + 40.0)
    for kind in kinds:
        assert done.count(kind) > 0.5 * len(done) * kind.share / sum(k.share for k in kinds)


def test_what_waits_and_cannot_be_done_in_time_is_not_begun(manual):
    """A job was admitted when a step took 0.1 s. Then steps take 1 s, and when there is room for
    it, 2 s before its deadline, it is told so before anything is spent on it.
    """
    m = manual("sd1")
    m.cost = lambda model, n: 0.1 * n
    m.driver.costs.longest = 0.15  # one at a time
    m.learn()
    first, other = m.submit(seed=1, steps=6, priority=10), m.submit(seed=2, steps=99, height=48)
    m.turn()
    late, last = m.submit(seed=3, steps=6, deadline=12.0), m.submit(seed=4, steps=6, deadline=600)
    m.cost = lambda model, n: 1.0 * n
    while not first.done:
        m.turn()
    m.turn()
    with pytest.raises(DeadlineError, match="is likely to take from now on, given"):
        late.result(0)
    other.cancel()
    m.finish()
    assert 3 not in m.encoded
    assert last.result(0).images
