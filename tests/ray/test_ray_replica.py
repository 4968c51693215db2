"""A replica by itself: the app's answers as Ray sends them, and jobs that end with their client."""

import asyncio
import json

import pytest

import pyengine

pytest.importorskip("fastapi")

from pyengine.ray.replica import Replica
from pyengine.serving import ServerSettings


def scope_of(method="POST", path="/v1/images/generations"):
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "raw_path": path.encode(),
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
        "client": ("192.0.2.1", 5),
        "server": ("localhost", 80),
    }


async def whole(replica, body, **scope):
    items = [item async for item in replica.answer(scope_of(**scope), json.dumps(body).encode())]
    return items[0][0], b"".join(items[1:])


def test_an_answer_is_the_apps_and_ends_with_its_client():
    async def run():
        replica = Replica(["emoji"], {"max_waiting": 4}, ServerSettings(deadline=1e5))
        assert replica.record_autoscaling_stats() == {"remaining_seconds": 0.0}
        ask = {"prompt": "a cat", "seed": 3, "num_inference_steps": 2}
        status, body = await whole(replica, {**ask, "n": 2})
        assert status == 200
        assert [picture["seed"] for picture in json.loads(body)["data"]] == [3, 4]
        status, body = await whole(replica, {**ask, "size": "32by32"})
        assert (status, json.loads(body)["error"]["param"]) == (400, "size")
        long = json.dumps({**ask, "num_inference_steps": 900}).encode()
        task = asyncio.ensure_future(anext(replica.answer(scope_of(), long)))
        while not replica._engine.running:
            assert not task.done(), task.result()
            await asyncio.sleep(0.01)
        told = replica.record_routing_stats()
        assert told["seconds"] > 0.1
        assert told["typical"] == pytest.approx(told["seconds"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while replica._engine.running:  # the step that it is in
            await asyncio.sleep(0.01)
        assert replica._engine.remaining == 0
        await replica.check_health()
        replica._engine.stop()
        with pytest.raises(pyengine.errors.UnavailableError):
            await replica.check_health()
        await replica._life.aclose()

    asyncio.run(run())
