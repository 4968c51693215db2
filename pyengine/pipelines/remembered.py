"""The settings that a picture carries, from the call that made it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from PIL import Image

from .. import __version__
from ..adapters.ip_adapter import find_file
from ..adapters.places import hash_of
from ..decoding.request import OTHER_DRAWS
from ..errors import PyengineError
from ..jobs.output import PipelineOutput, Report
from ..metadata import ASKED, Settings
from .loading import SHIPPED
from .lora_weights import as_text, read_text, shown_weight

#: Pictures that go into a call, by argument: what Settings calls their digests.
DIGESTS = {"image": "init_image", "mask_image": "mask", "prefix": "prefix",
           "control_image": "control", "ip_adapter_image": "ip_adapter_image"}  # fmt: skip


def settings_of(
    pipe: Any, call: Mapping[str, Any], output: PipelineOutput, *, model: str,
    hashes: Mapping[str, str | None],
) -> Settings:  # fmt: skip
    """The settings of all pictures of a call; see `of_picture` for one's own.

    call: arguments by name, as they were asked for; those that were not may be absent or None.
    model: what the picture says of where its model was. hashes: digests of the pictures and models
    that went in, by their fields of Settings.
    """
    report, defaults = output.report, pipe.defaults
    steps = getattr(defaults, "num_inference_steps", report.steps)
    steps = steps if report.num_inference_steps is None else report.num_inference_steps
    rescale = call.get("guidance_rescale")
    asked = {row.setting: call.get(row.name) for row in ASKED if row.setting}
    asked["lora"] = loras_of(pipe, call.get("lora"), report)
    if call.get("ip_adapter_image") is not None and call.get("ip_adapter_scale") is None:
        asked["ip_adapter_scale"] = _image_scale(pipe)
    return Settings(
        prompt=call.get("prompt") or "",
        steps=steps if call.get("num_inference_steps") is None else call["num_inference_steps"],
        sampler=report.sampler,
        guidance_scale=cast(float, report.guidance_scale),  # of one request: one for all
        guidance_rescale=getattr(defaults, "guidance_rescale", 0.0) if rescale is None else rescale,
        eta=call.get("eta") or report.eta or 0.0,
        decoding=report.decoding if report.decoding == OTHER_DRAWS else None,
        height=report.height,
        width=report.width,
        strength=report.strength,
        seed=output.seeds[0],
        first_seed=output.seeds[0],
        count=len(output.seeds),
        index=None,
        model=model,
        model_hash=pipe.model_hash,
        dtype=report.dtype,
        weights=report.weights,
        preset=getattr(pipe, "preset", None),
        device=pipe.device.type,
        version=__version__,
        embeddings=tuple(f"{t}:{sha256}" for t, sha256 in report.embeddings.items()) or None,
        loras=tuple(f"{name}:{sha256}" for name, sha256 in files_of_loras(report).items()) or None,
        **asked,
        **hashes,
    )


def hashes_beside(pipe: Any, digests: Mapping[str, str | None]) -> dict[str, str | None]:
    """Those of the networks beside a pipeline that a call's pictures went to, by their fields of
    Settings: of the one ControlNet or T2I-Adapter, or IP-Adapter, that was loaded by its place.
    Computed once. digests: of the pictures that went in.
    """
    places: dict[str, Any] = {}
    if digests.get("control") is not None:
        for keyword, own in getattr(pipe.parts, "beside_places", {}).items():
            if len(own) == 1:
                field = "t2i_adapter" if keyword == "adapter" else keyword
                places[field] = own[0], pipe.parts.hub.get("variant")
    image = getattr(pipe, "_image_places", None)
    if digests.get("ip_adapter_image") is not None and image is not None:
        with suppress(PyengineError):  # of several: none
            place = (image["place"], image["subfolder"], image["weight_name"])
            places["ip_adapter"] = find_file(*place), None
    kept: dict[Any, str] = pipe.__dict__.setdefault("_hashes_beside", {})
    for field, own in places.items():
        if own not in kept:
            with suppress(PyengineError):  # it is no longer there
                kept[own] = hash_of(field, *own)
    return {field: kept.get(own) for field, own in places.items()}


def files_of_loras(report: Report) -> dict[str, str]:
    """{name: SHA-256 of the file} of the LoRAs of a call's pictures."""
    return {name: own["sha256"] for picture in report.loras for name, own in picture.items()}


def _image_scale(pipe: Any) -> float | None:
    """What set_ip_adapter_scale chose, where that is one number and not 1."""
    scales = pipe._images.scales
    number = scales[0] if scales and all(own == scales[0] for own in scales) else None
    return number if isinstance(number, float) and number != 1 else None


def loras_of(pipe: Any, asked: Any, report: Report) -> Any:
    """The text that `lora` takes for a call's LoRAs: those that it asks for and those that were
    fused into the weights or chosen by set_adapters.
    """
    if not isinstance(asked, str | Mapping | None):
        return asked
    told = report.loras[0] if report.loras else {}
    weights = {
        name: shown_weight(own) for name, own in told.items()
        if own.get("fused") or own.get("chosen")
    }  # fmt: skip
    pairs = read_text(asked) if isinstance(asked, str) else list((asked or {}).items())
    for name, value in pairs:
        weight = pipe._loras.read_weight("lora", value)
        weights[name] = weights[name].plus(weight) if name in weights else weight
    return as_text({name: own.asked for name, own in weights.items()}) if weights else None


def of_picture(settings: Settings, output: PipelineOutput, index: int) -> Settings:
    """`settings_of`'s with a picture's own seed and place in its batch."""
    return dataclasses.replace(settings, seed=output.seeds[index], index=index)


def model_name(model: str | None) -> str:
    """What a picture says of where its model was: no path of this machine."""
    if model is None:
        return SHIPPED
    return Path(model).resolve().name[:200] if Path(model).exists() else model[:200]


def digest(image: Image.Image) -> str:
    """SHA-256 of the pixels of a picture that went in."""
    head = f"{image.mode} {image.size[0]}x{image.size[1]} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()
