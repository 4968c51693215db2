"""The app of gunicorn.conf.py: OpenAI's API in every process, over a model that was loaded once."""

from typing import Any

import pyengine
from pyengine.serving import ServerSettings, create_app

pipe = pyengine.from_pretrained("emoji", device="cpu")
pipe("a red heart", num_inference_steps=1, progress=False)  # what a first call makes is shared too


class App:
    """create_app's, made in each process: an engine does not survive a fork."""

    inner: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.inner is None:  # of the worker's lifespan, before any request
            self.inner = create_app(pyengine.Engine(pipe), ServerSettings())
        await self.inner(scope, receive, send)


app = App()
