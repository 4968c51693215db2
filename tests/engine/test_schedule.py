"""Who is next, by numbers alone."""

import itertools
import sys
import threading
import time
from collections import Counter

import pytest

from pyengine.engine import schedule
from pyengine.engine.costs import GROWS_AFTER, SHAPES, Costs, Curve
from pyengine.engine.memory import read_size
from pyengine.errors import RequestError


def test_shapes_share_time_not_turns():
    fair = schedule.DeficitRoundRobin()
    costs = {"short": 0.02, "long": 2.0, "middle": 0.3}
    spent = Counter()
    for _ in range(20_000):
        key = fair.pick(costs)
        spent[key] += costs[key]
    assert max(spent.values()) - min(spent.values()) <= 2 * 2.0
    assert min(spent.values()) > 100


def test_a_long_turn_does_not_come_before_its_time():
    """While a step of 2 s is saved for, short ones of 20 ms go on."""
    fair = schedule.DeficitRoundRobin()
    costs = {"long": 2.0, "short": 0.02}
    turns = [fair.pick(costs) for _ in range(99)]
    assert turns == ["short"] * 99
    assert "long" in [fair.pick(costs) for _ in range(3)]


def test_one_shape_alone_takes_all_turns():
    fair = schedule.DeficitRoundRobin()
    assert [fair.pick({"only": cost}) for cost in (1.0, 5.0, 0.1)] == ["only"] * 3
    assert fair.pick({"other": 3.0}) == "other"


def test_what_a_turn_took_beyond_its_estimate_is_charged():
    fair = schedule.DeficitRoundRobin()
    costs = {"a": 1.0, "b": 1.0}
    first = fair.pick(costs)
    fair.charge(first, 9.0)
    other = "b" if first == "a" else "a"
    assert [fair.pick(costs) for _ in range(9)] == [other] * 9


def test_due_by_deadline_age_and_priority():
    assert schedule.due(0.0, 5.0, 0) < schedule.due(0.0, None, 0)
    # Who came a minute ago goes before any that comes now, whatever its deadline.
    assert schedule.due(0.0, None, 0) < schedule.due(60.0, 0.001, 0)
    assert schedule.due(0.0, 5.0, 1) < schedule.due(0.0, 5.0, 0) < schedule.due(0.0, 5.0, -1)
    assert schedule.due(0.0, 1e9, 0) == schedule.due(0.0, None, 0)


def test_costs_are_learned_by_batch_size():
    curve = Curve()
    assert curve.at(1) is None
    curve.add(1, 9.0)  # the first of a shape is slow
    curve.add(1, 1.0)
    assert curve.at(1) == 1.0
    assert curve.at(4) == 4.0
    curve.add(8, 2.0)
    assert curve.at(4) == 2.0
    assert curve.at(16) == 4.0
    for _ in range(50):
        curve.add(8, 3.0)
    assert curve.at(8) == pytest.approx(3.0, rel=1e-3)


def test_a_batch_is_capped_by_its_seconds():
    costs = Costs(longest=0.25)
    assert costs.cap("new") == 1
    costs.stepped("big", 1, 2.0)
    assert costs.cap("big") == 1
    costs.stepped("small", 1, 0.02)
    assert costs.cap("small") == 12
    costs.stepped("small", 12, 0.05)
    assert costs.cap("small") == 60


def test_a_cap_is_found_once_between_two_measurements(monkeypatch):
    """It is asked for every job that waits, at every request that is refused."""
    costs, asked = Costs(longest=0.25), []
    real = Curve.at
    monkeypatch.setattr(Curve, "at", lambda curve, n: (asked.append(n), real(curve, n))[1])
    for seconds, cap in ((0.02, 12), (0.01, 25), (1.0, 1)):
        costs.stepped("a", 1, seconds)
        asked.clear()
        assert {costs.cap("a") for _ in range(1000)} == {cap}
        assert len(asked) < 1100
    costs.longest = 1e6
    assert costs.cap("a") == 64


def test_a_batch_is_capped_by_memory():
    costs = Costs(longest=10.0, memory=1000)
    costs.stepped("a", 1, 0.01)
    costs.took("a", 1, 300)
    assert costs.cap("a") == 3
    costs.took("a", 2, 400)
    assert costs.cap("a") == 5
    costs.took("b", 1, 1001)
    assert costs.fits("a")
    assert not costs.fits("b")


def test_out_of_memory_halves_and_the_cap_grows_again():
    costs = Costs(longest=10.0)
    costs.stepped("a", 1, 0.01)
    costs.out_of_memory("a", 16)
    assert costs.cap("a") == 8
    for _ in range(GROWS_AFTER):
        costs.stepped("a", 8, 0.01)
    assert costs.cap("a") == 9


def test_what_is_known_is_bounded():
    costs = Costs(longest=1.0)
    for key in range(10 * SHAPES):
        costs.stepped(key, 1, 0.01)
        costs.staged(key, 1, 0.01)
    assert len(costs._shapes) == len(costs._stages) == SHAPES
    assert costs.cap(10 * SHAPES - 1) > 1


@pytest.mark.parametrize(("text", "size"), [("8GB", 8 * 10**9), ("1.5 MiB", 3 * 2**19),
                                            (4096, 4096), ("512kb", 512_000)])  # fmt: skip
def test_sizes(text, size):
    assert read_size("memory", text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 XB", "-1GB", 0, -5, True, 1.5, "0", "8" * 50 + "GB"])
def test_what_is_no_size_names_the_field(text):
    with pytest.raises(RequestError, match="memory: expected bytes above 0"):
        read_size("memory", text)


def test_costs_are_asked_while_they_are_learned():
    """By threads that submit, as the engine's own learns: of new numbers, and of new shapes."""
    costs, went_wrong, until = Costs(1.0), [], time.monotonic() + 0.5
    interval = sys.getswitchinterval()

    def repeat(work):
        try:
            for n in itertools.count(1):
                if time.monotonic() > until:
                    return
                work(n)
        except Exception as e:
            went_wrong.append(e)

    def ask(n):
        costs.least_step("a", n % 40 + 1)
        costs.step("a", n % 40 + 1)
        costs.least_stage(n % 300)
        costs.cap("a")

    def learn(n):
        costs.stepped("a", n, 0.1)
        costs.staged(n, 1, 0.1)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in (ask, ask, learn)]
    try:
        sys.setswitchinterval(1e-6)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not went_wrong
