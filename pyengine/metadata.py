"""The settings that a picture carries: how it was made, so that it can be made again.

A PNG has them twice: the text chunk `parameters` in the form that AUTOMATIC1111's web UI began and
that other tools read, and the chunk `pyengine` with the same as JSON, which `read` takes back.
What is in a stranger's file is checked field by field.
"""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import ConfigError, RequestError
from .pipelines.arguments import REMEMBERED
from .pipelines.arguments import bounds as bounds_of
from .weights.config import read_config
from .weights.jsonio import parse_object
from .weights.text import show

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.PngImagePlugin import PngInfo

FORMAT = 1
CHUNK = "pyengine"
A1111_CHUNK = "parameters"
MAX_CHUNK = 1 << 20  # characters
MAX_PROMPT = 100_000

# Names of the samplers in other tools.
A1111_SAMPLERS = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "deis": "DEIS",
    "dpm2": "DPM2",
    "dpm2_ancestral": "DPM2 a",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_karras": "DPM++ 2M SDE Karras",
    "dpmpp_2s": "DPM++ 2S",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_karras": "DPM++ SDE Karras",
    "edm_dpmpp_2m": "EDM DPM++ 2M",
    "edm_euler": "EDM Euler",
    "flow_euler": "Flow Euler",
    "ipndm": "iPNDM",
    "lms": "LMS",
    "sa_solver": "SA Solver",
    "tcd": "TCD",
    "unipc": "UniPC",
    "lcm": "LCM",
    "pndm": "PLMS",
}
#: Spacings of a sampler's steps, which follow its name with an underscore, in other tools.
A1111_SPACINGS = {
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "trailing": "SGM Uniform",
}


def bounds(low: float, high: float) -> dict[str, float]:
    return {"min": low, "max": high}


#: Arguments of the call of which the settings hold what was asked for, None included.
ASKED = tuple(row for row in REMEMBERED if row.asked)

if TYPE_CHECKING:

    class _Asked:
        def __getattr__(self, name: str) -> Any: ...

else:
    _Asked = dataclasses.make_dataclass(
        "_Asked",
        [(row.setting, row.kind.type | None, dataclasses.field(default=None)) for row in ASKED],
        frozen=True,
        kw_only=True,
    )


@dataclass(frozen=True)
class Settings(_Asked):
    """Everything that decides a picture, but for the pictures that went in: the fields below, and
    those arguments of the call that the table of arguments says are remembered as asked.

    seed: of this picture. first_seed, count, index: of the batch that it was made in and its place
    there (index None: all of them, as a grid). sampler: the sampler that ran; scheduler: the one
    that was asked for by name, or None. model: a Hub id, or the last part of a path; model_hash: of
    its weights, hexadecimal. init_image, mask, original_image, prefix, clip_image,
    ip_adapter_image: SHA-256 of the pixels that went in, or None.
    upscaler: the model_hash of what enlarged the picture, or None; height, width: before that.
    classifier, clip_model: likewise of what guided it; controlnet, t2i_adapter, ip_adapter: of what
    was beside the model; vae: of the autoencoder in place of its own; prior: of the checkpoint
    before a decoder. control: SHA-256 of the pixels that these were shown, control_kind: how
    they were made of a picture (pyengine.preprocess), or None.
    loras: of those that it was drawn with, "name:SHA-256 of the file"; which of them counted how
    much is told by `lora`, those that were fused into the weights among them, and by <lora:...> in
    the prompt.
    embeddings: of textual inversions that the prompts name, "token:SHA-256 of the file".
    preset: the few-step model that the pipeline drew as, or None.
    weights: "int8" or "fp8" where some were rounded to 8 bits, or None. decoding: where it draws
    other tokens than "sequential" would, or None.
    """

    prompt: str
    seed: int | None = dataclasses.field(default=None, metadata=bounds(0, 2**63 - 1))
    steps: int = dataclasses.field(default=50, metadata=bounds(1, 100_000))
    sampler: str = ""
    guidance_scale: float = dataclasses.field(default=7.5, metadata=bounds(0, 1000))
    guidance_rescale: float = dataclasses.field(default=0.0, metadata=bounds(0, 1))
    eta: float = dataclasses.field(default=0.0, metadata=bounds(0, 1))
    height: int = dataclasses.field(default=512, metadata=bounds(1, 1 << 15))
    width: int = dataclasses.field(default=512, metadata=bounds(1, 1 << 15))
    strength: float | None = dataclasses.field(default=None, metadata=bounds(0, 1))
    init_image: str | None = None
    mask: str | None = None
    original_image: str | None = None
    decoding: str | None = None
    prefix: str | None = None
    upscaler: str | None = None
    classifier: str | None = None
    clip_model: str | None = None
    clip_image: str | None = None
    loras: tuple[str, ...] | None = None
    control: str | None = None
    control_kind: str | None = None
    controlnet: str | None = None
    t2i_adapter: str | None = None
    ip_adapter: str | None = None
    ip_adapter_image: str | None = None
    vae: str | None = None
    prior: str | None = None
    embeddings: tuple[str, ...] | None = None
    first_seed: int | None = dataclasses.field(default=None, metadata=bounds(0, 2**63 - 1))
    count: int = dataclasses.field(default=1, metadata=bounds(1, 4096))
    index: int | None = dataclasses.field(default=0, metadata=bounds(0, 4095))
    model: str = ""
    model_hash: str = ""
    dtype: str = "float32"
    weights: str | None = None
    preset: str | None = None
    device: str = "cpu"
    version: str = ""

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"format"})

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "settings") -> "Settings":
        """Settings as a picture carries them.

        Args:
            data: the parsed JSON.
            where: how errors call it.

        Raises:
            ConfigError: that lists every wrong, missing or unknown field.
        """
        prompt, negative = data.get("prompt"), data.get("negative_prompt")
        for name, text in (("prompt", prompt), ("negative_prompt", negative)):
            if not isinstance(text, str) and not (text is None and name != "prompt"):
                raise ConfigError(f"{where}: {name}: expected a string, found {show(text)}")
            if text is not None and len(text) > MAX_PROMPT:
                raise ConfigError(f"{where}: {name}: {len(text)} characters, at most {MAX_PROMPT}")
        # The prompts may be longer than read_config lets a string be.
        settings = read_config(
            cls,
            {**data, "prompt": "", "negative_prompt": None},
            where,
            of_checkpoint=False,
            bounds=bounds_of([row.setting for row in ASKED if row.setting]),
        )
        texts: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative}
        settings = dataclasses.replace(settings, **texts)
        if settings.index is not None and settings.index >= settings.count:
            raise ConfigError(
                f"{where}: index: expected below count {settings.count}, found {settings.index}"
            )
        return settings

    @property
    def files_of_loras(self) -> list[tuple[str, str]]:
        """(name, SHA-256) of each of `loras`."""
        return _names_and_hashes(self.loras)

    @property
    def files_of_embeddings(self) -> list[tuple[str, str]]:
        """(token, SHA-256) of each of `embeddings`."""
        return _names_and_hashes(self.embeddings)

    def to_json(self) -> str:
        """The settings as a picture carries them."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, ensure_ascii=False)

    @property
    def schedule_type(self) -> str | None:
        """The spacing of the steps as other tools say it, where the sampler's name does not."""
        if self.scheduler is None or self.scheduler in A1111_SAMPLERS:
            return None
        return A1111_SPACINGS.get(self.scheduler.rpartition("_")[2])

    def to_a1111(self) -> str:
        """Prompt, "Negative prompt: ..." and one line of comma-separated settings."""
        values: dict[str, Any] = {
            "Steps": self.steps,
            "Sampler": A1111_SAMPLERS.get(self.sampler, self.sampler),
            "Schedule type": self.schedule_type,
            "CFG scale": f"{self.guidance_scale:g}",
            "Seed": self.seed,
            "Size": f"{self.width}x{self.height}",
            "Model hash": self.model_hash[:10] or None,
            "Model": self.model or None,
            "Denoising strength": None if self.strength is None else f"{self.strength:g}",
            # There a skip of 1 is none: counted from the last layer, not from before it.
            "Clip skip": None if self.clip_skip is None else self.clip_skip + 1,
            "Eta": f"{self.eta:g}" if self.eta else None,
            "CFG Rescale": f"{self.guidance_rescale:g}" if self.guidance_rescale else None,
            "Lora hashes": _listed(self.files_of_loras),
            "TI hashes": _listed(self.files_of_embeddings),
            "Version": f"pyengine {self.version}",
        }
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        lines.append(", ".join(f"{k}: {quoted(v)}" for k, v in values.items() if v is not None))
        return "\n".join(lines)


def _names_and_hashes(texts: tuple[str, ...] | None) -> list[tuple[str, str]]:
    found = (text.rpartition(":") for text in texts or ())
    return [(name, sha256) for name, _, sha256 in found]


def _listed(files: list[tuple[str, str]]) -> str | None:
    return ", ".join(f"{name}: {sha256[:10]}" for name, sha256 in files) or None


def quoted(value: Any) -> str:
    """A value as that line holds it: in JSON's quotes where a separator would be read wrongly."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def png_info(settings: Settings) -> "PngInfo":
    """Both text chunks of `settings`, for PIL's Image.save(path, pnginfo=...)."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for chunk, text in ((A1111_CHUNK, settings.to_a1111()), (CHUNK, settings.to_json())):
        if text.isascii():
            info.add_text(chunk, text)
        else:
            info.add_itxt(chunk, text)
    return info


def read(path: str | os.PathLike[str]) -> Settings:
    """The settings that a PNG of ours carries, by its `path`.

    Raises:
        RequestError: for no picture, one without settings, or settings that cannot be.
    """
    from .images import open_image

    with open_image(path, "from") as image:
        return read_image(image, f"from: {show(os.fspath(path))}")


def read_image(image: "Image", where: str) -> Settings:
    """As `read`, of a picture that was opened.

    Args:
        image: as PIL opened it.
        where: what errors call it.
    """
    text = image.info.get(CHUNK)
    if not isinstance(text, str):
        foreign = A1111_CHUNK in image.info
        hint = "; another program's settings, in the chunk 'parameters', are not read"
        raise RequestError(f"{where} holds no pyengine settings{hint if foreign else ''}")
    if len(text) > MAX_CHUNK:
        raise RequestError(f"{where}: settings of {len(text)} characters, at most {MAX_CHUNK}")
    data = parse_object(text.encode("utf-8", "surrogatepass"), where, error=RequestError)
    if data.get("format") != FORMAT:
        raise RequestError(
            f"{where}: expected settings of format {FORMAT}, found {show(data.get('format'))}"
        )
    try:
        return Settings.from_dict(data, where)
    except ConfigError as e:
        raise RequestError(str(e)) from e
