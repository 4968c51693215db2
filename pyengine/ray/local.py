"""`pyengine serve --ray`: replicas on this machine or a cluster, and their front in this process.

In this process, and not behind Ray Serve's proxy, so that whatever is killed there answers and a
signal drains as without Ray.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import RequestError, UnavailableError
from ..pipelines.loading import find_checkpoint
from ..serving import ServerSettings
from .deploy import engines
from .front import Front, Group
from .needs import need

#: Bytes of Ray's store of objects: a request and its answer pass through it.
STORE = 256 << 20


@contextmanager
def front(
    models: Sequence[str],
    *,
    replicas: int | tuple[int, int],
    max_waiting: int,
    settings: ServerSettings,
    engine: Mapping[str, Any],
) -> Iterator[Front]:
    """The front of replicas that are ready. On leaving, a Ray that was started for them ends; of a
    cluster, which RAY_ADDRESS names, the replicas do.

    Raises CheckpointError for a model that is not there, UnavailableError where replicas do not
    start or Ray is missing.
    """
    ray, serve = need("ray"), need("ray.serve")
    for model in models:
        find_checkpoint(model, engine.get("variant"))
    most = replicas if isinstance(replicas, int) else replicas[1]
    if most < 1:
        raise RequestError(f"replicas: expected a whole number from 1, given {most}")
    cluster = "RAY_ADDRESS" in os.environ
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = 1 if cluster else max(1, cores // most)
    groups = engines(
        *models,
        replicas=replicas,
        apart=False,
        target_seconds=10.0,
        max_waiting=max_waiting,
        num_cpus=share,
        num_gpus=0,
        settings=settings,
        engine=engine,
        parts=1 if cluster else most,
    )
    try:
        _start(ray, cluster, cores=max(cores, share * most))
    except Exception as e:  # Ray has no class of its own for this
        raise UnavailableError(f"ray: it did not start: {e}") from e
    names = [f"pyengine-{os.getpid()}-{i}" for i in range(len(groups))]
    try:
        if not cluster:
            serve.start(proxy_location="Disabled")
        made = [
            Group(group, serve.run(bound, name=name, route_prefix=None))
            for name, (group, bound) in zip(names, groups, strict=True)
        ]
    except RuntimeError as e:
        _end(ray, serve, cluster, names)
        raise UnavailableError(f"replicas: they did not start: {e}") from e
    try:
        yield Front(made, settings)
    finally:
        _end(ray, serve, cluster, names)


def _start(ray: Any, cluster: bool, cores: int) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster:
        ray.init(**quiet)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a server reports to nobody
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        object_store_memory=STORE,
        _node_ip_address="127.0.0.1",
        **quiet,
    )


def _end(ray: Any, serve: Any, cluster: bool, names: Sequence[str]) -> None:
    if cluster:
        for name in names:
            serve.delete(name, _blocking=False)
    ray.shutdown()
