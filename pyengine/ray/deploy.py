"""An engine per replica behind Ray Serve."""

import os
from collections.abc import Mapping
from typing import Any

from ..errors import RequestError
from ..jobs import checks
from ..serving.settings import ServerSettings
from .front import Front, Group
from .needs import need
from .replica import Replica

MOST = 10_000
#: The names of the deployments.
FRONT, ENGINE = "pyengine-front", "pyengine-engine"
#: Seconds between two reports of a replica's remaining work.
REPORT = 1.0
#: Seconds that a replica may take to answer what it has, once it is to end.
GRACE = 30.0
#: Requests that a replica answers beside those that draw or wait: of jobs, models, metrics.
BESIDE = 64


def deployment(
    *models: str | os.PathLike[str],
    replicas: int | tuple[int, int] = 1,
    apart: bool = False,
    target_seconds: float = 10.0,
    max_waiting: int = 64,
    num_cpus: float = 1,
    num_gpus: float = 0,
    settings: ServerSettings | None = None,
    fronts: int = 1,
    engine: Mapping[str, Any] | None = None,
) -> Any:
    """A Ray Serve application for `serve.run`: the HTTP API of `pyengine serve`.

    models: names or paths, readable on every machine. replicas: how many, each an engine of all
    models; apart: each of one model, and `replicas` of each. (fewest, most): as many as finish the
    work that is left in `target_seconds`. max_waiting: jobs that wait at one engine. num_cpus,
    num_gpus: of a replica. settings: of the server. fronts: processes that take requests and pass
    them on; engine: further keywords of Engine.

    Raises RequestError for arguments that cannot be used, UnavailableError without Ray.
    """
    serve = need("ray.serve")
    settings = settings or ServerSettings()
    groups = engines(
        *models,
        replicas=replicas,
        apart=apart,
        target_seconds=target_seconds,
        max_waiting=max_waiting,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        settings=settings,
        engine=engine,
    )

    class Ingress:
        """The front, as Ray Serve runs it."""

        def __init__(self, groups: Any, settings: ServerSettings):
            self._front = Front([Group(names, handle) for names, handle in groups], settings)

        def __serve_build_asgi_app__(self) -> Front:
            return self._front

    made = serve.deployment(
        serve.ingress()(Ingress),
        name=FRONT,
        ray_actor_options={"num_cpus": 0},
        num_replicas=checks.integer("fronts", fronts, 1, MOST),
        max_ongoing_requests=settings.max_requests,
        graceful_shutdown_timeout_s=GRACE,
    )
    return made.bind(groups, settings)


def engines(
    *models: str | os.PathLike[str],
    replicas: int | tuple[int, int],
    apart: bool,
    target_seconds: float,
    max_waiting: int,
    num_cpus: float,
    num_gpus: float,
    settings: ServerSettings,
    engine: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> list[tuple[tuple[str, ...], Any]]:
    """(names of models, the deployment of the replicas that serve them, bound) for each group.
    parts: replicas that share a machine's memory.
    """
    if not models or not all(isinstance(model, str | os.PathLike) for model in models):
        raise RequestError("models: expected names or paths, which every replica loads by itself")
    names = [os.fspath(model) for model in models]
    if len(set(names)) != len(names):
        raise RequestError(f"models: expected each once, given {', '.join(names)}")
    max_waiting = checks.integer("max_waiting", max_waiting, 1, 1_000_000)
    options = {
        **_replicas(replicas, checks.real("target_seconds", target_seconds, 1e-3, 1e6)),
        "ray_actor_options": {
            "num_cpus": checks.real("num_cpus", num_cpus, 0, MOST),
            "num_gpus": checks.real("num_gpus", num_gpus, 0, MOST),
        },
        "max_ongoing_requests": max_waiting + BESIDE,
        "max_queued_requests": max_waiting,
        "graceful_shutdown_timeout_s": GRACE,
        "request_router_config": need("ray.serve.config").RequestRouterConfig(
            request_router_class="pyengine.ray.routing.LeastWork",
            request_routing_stats_period_s=REPORT,
        ),
    }
    groups = [(name,) for name in names] if apart else [tuple(names)]
    keywords = {**(engine or {}), "max_waiting": max_waiting}
    return [
        (
            group,
            need("ray.serve")
            .deployment(Replica, name=f"{ENGINE}-{i}", **options)
            .bind(group, keywords, settings, parts),
        )
        for i, group in enumerate(groups)
    ]


def _replicas(given: Any, target_seconds: float) -> dict[str, Any]:
    """Options of a deployment: a number of replicas, or how they become more and fewer."""
    if not isinstance(given, tuple | list):
        return {"num_replicas": checks.integer("replicas", given, 1, MOST)}
    if len(given) != 2:
        raise RequestError(f"replicas: expected a number or two, given {len(given)}")
    fewest = checks.integer("replicas", given[0], 1, MOST)
    config = need("ray.serve.config")
    policy = config.AutoscalingPolicy(
        policy_function="pyengine.ray.scaling.Scale", policy_kwargs={"seconds": target_seconds}
    )
    return {
        "autoscaling_config": config.AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=checks.integer("replicas", given[1], fewest, MOST),
            upscale_delay_s=5.0,
            downscale_delay_s=60.0,
            policy=policy,
        )
    }
