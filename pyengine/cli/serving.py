"""`pyengine serve`: the engine, the server, and what to say about them."""

import ipaddress
import sys
from dataclasses import dataclass
from typing import Any

from ..engine import Engine
from ..errors import RequestError, UnavailableError
from ..serving.settings import ServerSettings
from . import warn

#: Of the free memory, what evaluations may take: decoding and requests need some, too.
SHARE = 0.8


@dataclass
class Options:
    """The command's options. loading: keywords of from_pretrained. settings: of ServerSettings."""

    models: list[str]
    host: str
    port: int
    max_waiting: int
    memory: str | None
    loading: dict[str, Any]
    settings: dict[str, Any]


def run(o: Options) -> int:
    settings = ServerSettings(**o.settings)
    if not 0 <= o.port <= 65_535:
        raise RequestError(f"port: expected a whole number from 0 to 65535, given {o.port}")
    try:
        from ..serving import logs, process
    except ImportError as e:
        raise UnavailableError(
            f"serve: needs the package {e.name}: pip install 'pyengine[serve]'"
        ) from None
    if not settings.api_keys and not _local(o.host):
        warn(f"whoever reaches {o.host}:{o.port} may draw: there is no --api-key")
    engine = Engine(*o.models, max_waiting=o.max_waiting, memory=o.memory, **o.loading)
    if o.memory is None and engine.pipeline().device.type == "cpu":
        engine.limit_memory(_free())
    logs.configure()
    process.serve(engine, settings, o.host, o.port, lambda url: _tell(url, engine))
    return 0


def _tell(url: str, engine: Engine) -> None:
    print(f"serving {', '.join(engine.models)} at {url}")
    sys.stdout.flush()


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _free() -> int | None:
    """Bytes that evaluations may take on this machine's CPU; None where it does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            kilobytes = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return int(SHARE * kilobytes * 1024)
