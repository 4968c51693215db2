"""A short job of every model, before the first client's: what it costs is known then."""

import logging
from typing import Any

from ..engine import Engine
from ..errors import PyengineError
from .drawing import call_parameters

log = logging.getLogger("pyengine.serving")

#: Of two steps the second is measured; the first also fills caches.
STEPS = 2


async def warm_up(engine: Engine) -> None:
    """Draws a picture with each model. One that cannot be drawn without a picture or a class is
    left cold: what its first job costs is learned from that.
    """
    for name in engine.models:
        takes = call_parameters(engine.pipeline(name))
        call: dict[str, Any] = {"prompt": "a", "num_inference_steps": STEPS, "seed": 0}
        try:
            await engine.submit(name, **{k: v for k, v in call.items() if k in takes})
        except PyengineError as e:
            log.info("model left cold", extra={"fields": {"reason": str(e)}})
