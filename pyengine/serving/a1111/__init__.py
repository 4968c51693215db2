"""The API of AUTOMATIC1111's Stable Diffusion web UI, which Open WebUI and SillyTavern speak.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API. What a request does not say is the
model's own, where that web UI has defaults of Stable Diffusion 1; docs/serving.md says what else
differs.
"""

from fastapi import APIRouter

from . import images, lists, options, png_info, progress

router = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
for part in (images, options, lists, progress, png_info):
    router.include_router(part.router)

__all__ = ["router"]
