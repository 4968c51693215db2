"""A server in a thread, as browsers and other programs meet it: uvicorn over an engine."""

import threading
import time
from contextlib import contextmanager

import uvicorn

import pyengine
from pyengine.serving import ServerSettings, create_app


@contextmanager
def served(*models, max_waiting=64, observer=None, **settings):
    """The URL of a server over the models. observer: see Engine.observe."""
    with pyengine.Engine(*models, max_waiting=max_waiting) as engine:
        if observer is not None:
            engine.observe(observer)
        app = create_app(engine, ServerSettings(**settings))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)
            engine.stop()
            assert not thread.is_alive()
