"""POST /sdapi/v1/txt2img and img2img."""

import json
import time
from typing import Any

from fastapi import APIRouter, Request

from ...errors import CancelledError, RequestError
from ...metadata import Settings
from .. import pictures
from ..auth import Caller, KnownCaller
from ..bodies import read_json
from ..drawing import Drawing, call_parameters
from ..openai.images import admit
from ..samplers import takes_sampler
from ..schema import Answer
from ..server import Server
from ..watch import result_of
from . import schema
from .fields import PLAIN, Asked, read
from .inpainting import picture_arguments
from .samplers import label, sampler_of
from .state import FORMATS, Options, callers_of

router = APIRouter()
#: That web UI's names of arguments, by ours.
NAMES = {argument: name for name, argument in PLAIN.items()} | {
    "num_images_per_prompt": "batch_size",
    "n": "batch_size",
    "size": "width",
    "scheduler": "sampler_name",
    "strength": "denoising_strength",
    "image": "init_images",
    "mask_image": "mask",
    "padding_mask_crop": "inpaint_full_res_padding",
    "clip_skip": "CLIP_stop_at_last_layers",
}


class Pictures(Answer):
    """images: files as base64. parameters: what was asked for. info: JSON, as a text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


@router.post("/txt2img", responses=schema.refusals(), openapi_extra=schema.drawing_body(False))
async def txt2img(request: Request, caller: KnownCaller) -> Pictures:
    """Pictures of a prompt."""
    return await _draw(request, caller, with_pictures=False)


@router.post("/img2img", responses=schema.refusals(), openapi_extra=schema.drawing_body(True))
async def img2img(request: Request, caller: KnownCaller) -> Pictures:
    """Pictures made of a picture, within a mask where there is one."""
    return await _draw(request, caller, with_pictures=True)


async def _draw(request: Request, caller: Caller, with_pictures: bool) -> Pictures:
    server, callers = admit(request, caller), callers_of(request)
    asked = read(await read_json(request), with_pictures)
    options, ignored = callers.options(caller).changed(asked.settings, server.models)
    asked.ignored += [f"override_settings.{name}" for name in ignored]
    drawing = await server.in_thread(
        _submit, server, caller, asked, options, server.tracing.context()
    )
    request.state.log = {"model": drawing.model}
    with callers.working(caller, drawing) as work:
        try:
            output = await result_of(request, drawing.job)
        except CancelledError:
            if not work.interrupted:
                raise
            output = None  # before there was anything to be seen
    return await server.in_thread(_answer, drawing, asked, options, output)


def _submit(
    server: Server, caller: Caller, asked: Asked, options: Options, context: Any
) -> Drawing:
    """The request as a job. It takes time: not for an event loop."""
    model = server.models.find(options.model)
    pipe = server.models.pipeline(model)
    call = _call(server, asked, options, pipe)
    return server.drawings.submit(caller, model, call, names=NAMES, context=context)


def _call(server: Server, asked: Asked, options: Options, pipe: Any) -> dict[str, Any]:
    """Arguments of the pipeline's call. What the model has not and clients always send is left
    out, and told.
    """
    own, has = asked.own, call_parameters(pipe)
    call: dict[str, Any] = {"prompt": own.get("prompt", ""), "num_images_per_prompt": asked.count}
    call |= {name: own[name] for name in ("width", "height") if name in own}
    for name, argument in PLAIN.items():
        if argument in has:
            call[argument] = own.get(name)
        elif own.get(name):
            asked.ignored.append(name)
    call["negative_prompt"] = call.get("negative_prompt") or None
    call["eta"] = call.get("eta") or None
    if takes_sampler(pipe):
        call["scheduler"] = sampler_of(asked.sampler, own.get("scheduler") or None, pipe)
    elif asked.sampler:
        asked.ignored.append("sampler_name")
    if "prompt_weighting" in has:  # as that web UI reads every prompt
        call["prompt_weighting"] = "a1111"
    if own.get("seed", -1) >= 0:
        call["seed"] = own["seed"]
    if options.CLIP_stop_at_last_layers > 1:
        call["clip_skip"] = options.CLIP_stop_at_last_layers - 1
    if asked.pictures:
        if "image" not in has:
            raise RequestError("init_images: expected none, given one: this model draws from texts")
        call |= picture_arguments(asked, server.settings)
    return call


# --- answers --------------------------------------------------------------------------------------


def _answer(drawing: Drawing, asked: Asked, options: Options, output: Any) -> Pictures:
    own = dict(asked.own)
    if own.pop("include_init_images", False):
        own["init_images"] = asked.pictures
    if output is None:
        return Pictures(images=[], parameters=own, info=json.dumps({"interrupted": True}))
    files = drawing.files(output, FORMATS[options.samples_format])
    images = [pictures.base64_of(data) for data in files]
    info = info_of(drawing, drawing.settings(output), output, asked)
    return Pictures(
        images=images if own.get("send_images", True) else [],
        parameters=own,
        info=json.dumps(info, ensure_ascii=False),
    )


def info_of(
    drawing: Drawing, settings: list[Settings], output: Any, asked: Asked
) -> dict[str, Any]:
    """What that web UI tells of pictures; with the seeds told, and the settings, they are drawn
    again. interrupted, ignored and warnings are ours.
    """
    first, seeds = settings[0], list(output.seeds)
    return {
        "prompt": first.prompt,
        "all_prompts": [first.prompt] * len(seeds),
        "negative_prompt": first.negative_prompt or "",
        "all_negative_prompts": [first.negative_prompt or ""] * len(seeds),
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": label(first.sampler),
        "cfg_scale": first.guidance_scale,
        "steps": first.steps,
        "batch_size": len(seeds),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": drawing.model,
        "sd_model_hash": drawing.pipe.model_hash[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": first.strength,
        "extra_generation_params": {"Schedule type": first.schedule_type or "Automatic"},
        "index_of_first_image": 0,
        "infotexts": [one.to_a1111() for one in settings],
        "styles": [],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "clip_skip": 1 if first.clip_skip is None else first.clip_skip + 1,
        "is_using_inpainting_conditioning": False,
        "version": f"pyengine {first.version}",
        "interrupted": output.report.interrupted,
        "ignored": asked.ignored,
        "warnings": list(output.report.warnings),
    }
