"""`pyengine serve`: the engine, the server, and what to say about them."""

import ipaddress
import sys
from dataclasses import dataclass, field
from typing import Any

from ..engine import Engine
from ..engine.memory import free_memory
from ..errors import RequestError, UnavailableError
from ..serving.settings import ServerSettings
from . import warn

#: Bytes of a file of API keys.
MAX_KEYS = 1 << 20


@dataclass
class Options:
    """The command's options. loading: keywords of from_pretrained. settings: of ServerSettings.
    folders: lora_dir and embeddings_dir, for the models that take them; ip_adapter: of
    load_ip_adapter.
    """

    models: list[str]
    host: str
    port: int
    max_waiting: int
    memory: str | None
    loading: dict[str, Any]
    settings: dict[str, Any]
    folders: dict[str, Any] = field(default_factory=dict)
    ip_adapter: dict[str, Any] = field(default_factory=dict)
    ray: bool = False
    replicas: str | None = None


def run(o: Options) -> int:
    if not _is_address(o.host) and o.host != "localhost":  # the name that it is bound by
        o.settings["allowed_hosts"] = (*o.settings.get("allowed_hosts", ()), o.host)
    settings = ServerSettings(**o.settings)
    if not 0 <= o.port <= 65_535:
        raise RequestError(f"port: expected a whole number from 0 to 65535, given {o.port}")
    if o.replicas is not None and not o.ray:
        raise RequestError("replicas: expected --ray with it")
    if o.ip_adapter and ("place" not in o.ip_adapter or o.ray):
        raise RequestError(
            "image-encoder: expected --ip-adapter with it, given none"
            if not o.ray
            else "ip-adapter: expected none with --ray"
        )
    try:
        from ..serving import create_app, logs, process
    except ImportError as e:
        raise UnavailableError(
            f"serve: needs the package {e.name}: pip install 'pyengine[serve]'"
        ) from None
    if not settings.api_keys and not _local(o.host):
        warn(f"whoever reaches {o.host}:{o.port} may draw: there is no --api-key")

    def tell(url: str) -> None:
        print(f"serving {', '.join(o.models)} at {url}")
        sys.stdout.flush()

    if o.ray:
        from ..ray.local import front

        engine_options = {"memory": o.memory, **o.loading, **o.folders}
        with front(
            o.models,
            replicas=_replicas(o.replicas or "1"),
            max_waiting=o.max_waiting,
            settings=settings,
            engine=engine_options,
        ) as app:
            logs.configure()
            process.serve(app, app.stop, settings, o.host, o.port, tell)
        return 0
    engine = Engine(*o.models, max_waiting=o.max_waiting, memory=o.memory, **o.loading)
    _give(engine, o)
    if o.memory is None and engine.pipeline().device.type == "cpu":
        engine.limit_memory(free_memory())
    logs.configure()
    process.serve(create_app(engine, settings), engine.stop, settings, o.host, o.port, tell)
    return 0


def given(**options: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _give(engine: Engine, o: Options) -> None:
    """Sets what the models that take it have beside them."""
    pipes = [engine.pipeline(name) for name in engine.models]
    for name, value in o.folders.items():
        for pipe in _taking(pipes, name):
            setattr(pipe, name, value)
    if o.ip_adapter:
        for pipe in _taking(pipes, "load_ip_adapter"):
            pipe.load_ip_adapter(**o.ip_adapter)


def _taking(pipes: list[Any], name: str) -> list[Any]:
    found = [pipe for pipe in pipes if hasattr(type(pipe), name)]
    if not found:
        option = name.removeprefix("load_").replace("_", "-")
        kinds = ", ".join(type(pipe).__name__ for pipe in pipes)
        raise RequestError(f"{option}: expected a model that takes it, given {kinds}")
    return found


def keys_in(path: str | None) -> tuple[str, ...]:
    """API keys of a file, one a line; none of no file. Raises RequestError."""
    if path is None:
        return ()
    try:
        with open(path, "rb") as f:
            text = f.read(MAX_KEYS + 1).decode()
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text"
        raise RequestError(f"api_key_file: expected a file of keys: {why}") from None
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys or len(text) > MAX_KEYS:
        raise RequestError(f"api_key_file: expected keys, one a line, in at most {MAX_KEYS} bytes")
    return keys


def _replicas(text: str) -> int | tuple[int, int]:
    """2, or 1,8: the fewest and the most."""
    parts = text.split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isdecimal() for part in parts):
        raise RequestError(f"replicas: expected a number, or two as in 1,8, given {text!r}")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _local(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
