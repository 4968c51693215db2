"""Jobs of many callers on loaded models: a queue, and one thread that runs their stages together.

with pyengine.Engine("emoji", "emoji-ar", max_waiting=64) as engine:
    job = engine.submit(prompt="a red heart", seed=1)
    job.result().images[0].save("heart.png")
"""

from .engine import Engine
from .events import Event
from .job import EngineJob

__all__ = ["Engine", "EngineJob", "Event"]
