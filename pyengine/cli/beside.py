"""Networks beside `pyengine generate`'s model: which options name them, and what pictures tell."""

from pathlib import Path
from typing import Any

from ..adapters.ip_adapter import find_file
from ..adapters.places import hash_of
from ..errors import RequestError
from ..pipelines.loading import find_checkpoint

#: Options that name networks beside the model, and the keywords that load them.
BESIDE = {"controlnet": "controlnet", "t2i_adapter": "adapter"}
#: Options that name checkpoints of a part, or of a pipeline before it; keywords of loading too.
PARTS = ("vae", "prior")


def hashes_of(o: Any) -> dict[str, str | None]:
    """Those of the weights that the options name beside the model, by their names in Settings."""
    hashes: dict[str, str | None] = {
        name: hash_of(name, file_of(name, getattr(o, name)), o.variant)
        for name in (*BESIDE, "ip_adapter", "vae")
        if getattr(o, name) is not None
    }
    if o.prior is not None:
        hashes["prior"] = find_checkpoint(o.prior, o.variant)[0].model_hash
    return hashes


def load_ip_adapter(o: Any, pipe: Any) -> None:
    """Loads the IP-Adapter that the options name."""
    if o.ip_adapter is None:
        if o.image_encoder is not None:
            raise RequestError("image-encoder: expected --ip-adapter with it, given none")
        return
    if o.call["ip_adapter_image"] is None:
        raise RequestError("ip-adapter: expected --ip-adapter-image with it, given none")
    pipe.load_ip_adapter(o.ip_adapter, image_encoder=o.image_encoder)


def file_of(name: str, place: str) -> str | Path:
    """What is loaded of a place: of an IP-Adapter's folder the file in it."""
    return find_file(place) if name == "ip_adapter" else place
