"""`pyengine bench serve`: a server under mixed load, below and above what it can do."""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ..errors import RequestError, UnavailableError
from .load import CUT, TIMED_OUT, Kind, Outcome, Request, arrivals, ask, closed, mixed, offer
from .results import OURS
from .servers import Make, ServerProcess, Sides, Usage, of_diffusers, one_at_a_time, ours

ALONE, DIFFUSERS = "one at a time", "diffusers"
MAKERS: dict[str, Make] = {OURS: ours, ALONE: one_at_a_time, DIFFUSERS: of_diffusers}
PEERS = (DIFFUSERS,)
#: Callers that measure capacity: enough that no evaluation waits for requests.
CALLERS = 24
#: Answers of a load that are drawn again, alone.
REDRAWN = 6
#: How many times its time alone a request may take to count as in time.
IN_TIME = 3.0
#: Guidance of all that take steps, so that everyone's pictures cost two rows of an evaluation.
GUIDANCE = 2.5
#: Requests of models that take steps: name, steps, sides in times the model's, share, short.
SORTS = (
    ("4 steps", 4, 1, 50, True),
    ("20 steps", 20, 1, 25, True),
    ("twice the side", 12, 2, 10, True),
    ("long", 50, 3, 2, False),
)


@dataclass(frozen=True)
class Work:
    """What is measured. seconds: of each load; patience: seconds until a client gives up; only: of
    the kinds of requests those with this in their names; others: whether others than ours are.
    """

    models: Sequence[str]
    loads: Sequence[float] = (0.5, 0.8, 1.2, 10.0)
    seconds: float = 10.0
    patience: float = 60.0
    max_waiting: int = 64
    threads: int = 1
    requests: int = 0
    only: str = ""
    others: bool = True
    quick: bool = False


@dataclass
class Load:
    """A contestant under a load: seconds from when requests were due, of those that were done.
    client_cpu: seconds of CPU that the client took, a part of the machine that the server lacked.
    """

    contestant: str
    times_capacity: float
    offered: int
    done: int
    refused: int
    gave_up: int
    seconds: dict[str, float] = field(default_factory=dict)
    goodput: float = 0.0
    in_time: float = 0.0
    refused_within: float | None = None
    client_late: float = 0.0
    client_cpu: float = 0.0
    before: Usage | None = None
    after: Usage | None = None


@dataclass
class Result:
    """capacity: requests a second that ours does. alone: seconds of each kind with nothing beside
    it, ours. soak: see `soak`.
    """

    kinds: list[Kind]
    capacity: float
    alone: dict[str, float]
    loads: list[Load] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    soak: list[dict[str, float]] = field(default_factory=list)


def kinds_of(sides: dict[str, Sides]) -> list[Kind]:
    """Requests of each model: few steps, many, larger, and now and then one a hundred times as
    large, as far as it draws those sides; of models without steps, pictures as they are.
    """
    found = []
    for model, own in sides.items():
        if not own:
            found.append(Kind(f"{model}, as it is", {"model": model}, 25))
            continue
        for name, steps, times, share, short in SORTS:
            body = {"model": model, "num_inference_steps": steps, "guidance_scale": GUIDANCE}
            if len(own) > 1:
                body["size"] = f"{own[0] * times}x{own[0] * times}"
            if own[0] * times in own:
                found.append(Kind(f"{model}, {name}", body, share, short))
    return found


def measure(work: Work, peers: Sequence[str], say: Callable[[str], None]) -> Result:
    """Ours first, which tells what capacity is; then the others under the same arrivals."""
    with ServerProcess(OURS, ours, work.models, work.max_waiting, work.threads) as server:
        say("each kind of request alone")
        kinds = [kind for kind in kinds_of(server.sides) if work.only in kind.name]
        if not kinds:
            names = ", ".join(kind.name for kind in kinds_of(server.sides))
            raise RequestError(f"only: expected a part of one of {names}, given {work.only!r}")
        if work.quick:
            kinds = kinds[:2]
        alone = _alone(server.port, kinds, work)
        say("capacity")
        result = Result(kinds, _capacity(server.port, kinds, work), alone)
        for times in work.loads:
            say(f"{OURS} at {times:g} times {result.capacity:.2f} requests a second")
            result.loads.append(_under(server, result, times, work, check=True))
        if work.requests:
            say(f"{work.requests} small requests")
            result.soak = soak(server, kinds, work)
    for name in (ALONE, *peers) if work.others else ():
        try:
            _others(name, result, work, say)
        except UnavailableError as e:
            result.missing[name] = str(e)
    return result


def _others(name: str, result: Result, work: Work, say: Callable[[str], None]) -> None:
    for times in work.loads:
        # Each load finds an empty queue, and none of the last one's requests.
        with ServerProcess(
            name, MAKERS[name], work.models, work.max_waiting, work.threads
        ) as server:
            say(f"{name} at {times:g} times {result.capacity:.2f} requests a second")
            for kind in result.kinds:
                asyncio.run(ask(server.port, Request(kind, 1), work.patience, time.perf_counter()))
            result.loads.append(_under(server, result, times, work, check=False))


def _alone(port: int, kinds: Sequence[Kind], work: Work) -> dict[str, float]:
    """Seconds of each kind with nothing beside it: the median of three, after one that warms up."""
    found = {}
    for kind in kinds:
        outcomes = [
            asyncio.run(ask(port, Request(kind, k), work.patience, time.perf_counter()))
            for k in range(2 if work.quick else 4)
        ]
        if not all(outcome.done for outcome in outcomes):
            raise RuntimeError(f"{kind.name}: answered with {[o.status for o in outcomes]}")
        found[kind.name] = statistics.median(outcome.seconds for outcome in outcomes[1:])
    return found


def _capacity(port: int, kinds: Sequence[Kind], work: Work) -> float:
    """Requests a second where there always are some that wait."""
    begin = time.perf_counter()
    outcomes = asyncio.run(
        closed(port, mixed(kinds, 7), CALLERS, work.patience, begin + work.seconds)
    )
    return sum(outcome.done for outcome in outcomes) / (time.perf_counter() - begin)


def _under(server: ServerProcess, result: Result, times: float, work: Work, check: bool) -> Load:
    requests = arrivals(result.kinds, times * result.capacity, work.seconds, seed=3)
    before, cpu = server.usage(), time.process_time()
    outcomes = asyncio.run(offer(server.port, requests, work.patience))
    cpu = time.process_time() - cpu
    load = summary(server.name, times, outcomes, result.alone, work.seconds)
    load.before, load.after, load.client_cpu = before, server.usage(), cpu
    if check:
        check_answers(outcomes)
        _draw_again(server.port, outcomes, work)
    return load


def check_answers(outcomes: Sequence[Outcome]) -> None:
    """Raises RuntimeError where an answer is lost, is another request's, or is none that a server
    under load may give: done, or refused with a time to come again.
    """
    for outcome in outcomes:
        seed = outcome.request.seed
        if outcome.done and outcome.seeds != [seed]:
            raise RuntimeError(f"asked for seed {seed}, answered with {outcome.seeds}")
        if outcome.refused and not outcome.retry_after:
            raise RuntimeError("a refusal without Retry-After")
        if not outcome.done and not outcome.refused and outcome.status != TIMED_OUT:
            what = f"status {outcome.status}"
            if outcome.status == CUT:
                what = f"a cut connection ({outcome.why})"
            raise RuntimeError(f"{outcome.request.kind.name}, seed {seed}: {what}")


def _draw_again(port: int, outcomes: Sequence[Outcome], work: Work) -> None:
    """Raises RuntimeError where a picture that was drawn under load is another alone."""
    done = [outcome for outcome in outcomes if outcome.done]
    for outcome in random.Random(5).sample(done, min(REDRAWN, len(done))):
        again = asyncio.run(ask(port, outcome.request, work.patience, time.perf_counter()))
        if again.digest != outcome.digest:
            request = outcome.request
            raise RuntimeError(f"{request.kind.name}, seed {request.seed}: another picture alone")


def summary(
    name: str, times: float, outcomes: Sequence[Outcome], alone: dict[str, float], seconds: float
) -> Load:
    """What is told of a load. alone: seconds of each kind; seconds: in which requests came."""
    done = [outcome for outcome in outcomes if outcome.done]
    refused = [outcome for outcome in outcomes if outcome.refused]
    load = Load(
        name,
        times,
        len(outcomes),
        len(done),
        len(refused),
        len(outcomes) - len(done) - len(refused),
    )
    shown = {"": done, "short ": [outcome for outcome in done if outcome.request.kind.short]}
    for what, some in shown.items():
        for p in (50, 95, 99):
            load.seconds[f"{what}p{p}"] = percentile([o.seconds for o in some], p)
    # Up to the last answer: jobs that share evaluations end together, so that a shorter window
    # would count too many or too few.
    load.goodput = len(done) / max([seconds, *(o.request.due + o.seconds for o in done)])
    in_time = [o for o in done if o.seconds <= IN_TIME * alone[o.request.kind.name]]
    load.in_time = len(in_time) / max(1, len(outcomes))
    if refused:
        load.refused_within = percentile([o.seconds - o.late for o in refused], 99)
    load.client_late = percentile([o.late for o in outcomes], 99)
    return load


def percentile(values: Sequence[float], p: float) -> float:
    """The smallest value that p percent are not above; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, -(-len(ordered) * int(p) // 100) - 1)]


def soak(server: ServerProcess, kinds: Sequence[Kind], work: Work) -> list[dict[str, float]]:
    """What the process holds as many small requests go through it, of one step and half the sides:
    at the beginning and, at rest, after each tenth of them.
    """
    small = min(kinds, key=lambda kind: kind.body.get("num_inference_steps", 1000))
    body = {**small.body, "num_inference_steps": 1, "guidance_scale": 1.0}
    if "size" in body:
        width, height = (int(side) // 2 for side in body["size"].split("x"))
        body["size"] = f"{width}x{height}"
    kind = Kind("small", body, 1)
    found = [{"requests": 0, **asdict(server.usage())}]
    seeds = itertools.count(1)
    for tenth in range(1, 11):
        count = work.requests * tenth // 10 - int(found[-1]["requests"])
        requests = (Request(kind, next(seeds)) for _ in range(count))
        outcomes = asyncio.run(closed(server.port, requests, CALLERS, work.patience))
        check_answers(outcomes)
        refused = sum(not outcome.done for outcome in outcomes)
        held = server.usage_at_rest(int(min(point["files"] for point in found)))
        found.append(
            {"requests": found[-1]["requests"] + len(outcomes), "not_done": refused, **asdict(held)}
        )
    return found
