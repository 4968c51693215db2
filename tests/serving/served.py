"""Servers in a thread of the tests' process, and what tests send and get."""

import base64
import io
import threading
from contextlib import contextmanager

from PIL import Image

import pyengine
from pyengine.serving import ServerSettings, create_app
from pyengine.serving.process import Process

#: A call that takes some milliseconds.
SHORT = {"prompt": "a red heart", "seed": 1, "num_inference_steps": 3}


class Running:
    """A server that listens: url, app, engine, and what the app holds."""

    def __init__(self, process, url):
        self.process, self.url, self.app = process, url, process.config.app
        self.server = self.app.state.server
        self.engine = self.server.engine
        self.host, port = url.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)


@contextmanager
def running(engine, **settings):
    """A server of an engine for the time of the block."""
    told, address = threading.Event(), []

    def started(url):
        address.append(url)
        told.set()

    settings = ServerSettings(**{"warm_up": False, **settings})
    app = create_app(engine, settings)
    # The engine is its maker's: other tests go on with it.
    process = Process(app, lambda: None, settings, "127.0.0.1", 0, started)
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        assert told.wait(60)
        yield Running(process, address[0])
    finally:
        process.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def serving(*pipes, observer=None, **settings):
    """The URL of a server of an engine of its own. observer: see Engine.observe."""
    with pyengine.Engine(*pipes) as engine:
        if observer is not None:
            engine.observe(observer)
        with running(engine, **settings) as found:
            yield found.url
        engine.stop()


def to_image(text):
    """The picture of base64 or a data: URL."""
    return Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))


def to_png(image, kind="PNG"):
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()
