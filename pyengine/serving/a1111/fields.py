"""That web UI's fields of a request, checked: what each of them means here, or that it is refused.

A field that asks for nothing is taken, whatever it is; one that asks for what is not here is
refused; names that nobody knows are told in the answer's info: clients send fields of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import RequestError
from ...jobs import checks
from ...pipelines.argument_kinds import Choice, Kind, Real, Whole, Words
from ...weights.text import show

#: A switch.
FLAG = "flag"
_SIDE = Whole(1, 8192)
_TIMES = Whole(1, 1024)

#: Fields with a meaning, of both requests.
SHARED: Mapping[str, Kind | str] = {
    "prompt": Words(),
    "negative_prompt": Words(),
    "steps": Whole(1, 100_000),
    "cfg_scale": Real(0, 1000),
    "width": _SIDE,
    "height": _SIDE,
    "batch_size": _TIMES,
    "n_iter": _TIMES,
    "seed": Whole(-1, 2**63 - 1),
    "sampler_name": Words(),
    "sampler_index": Words(),
    "scheduler": Words(),
    "eta": Real(0, 1),
    "send_images": FLAG,
}
#: Of image to image alone.
OF_PICTURES: Mapping[str, Kind | str] = {
    "denoising_strength": Real(0, 1),
    "resize_mode": Whole(0, 3),
    "include_init_images": FLAG,
    "mask_blur": Whole(0, 64),
    "mask_blur_x": Whole(0, 64),
    "mask_blur_y": Whole(0, 64),
    "inpainting_fill": Whole(0, 3),
    "inpaint_full_res": FLAG,
    "inpaint_full_res_padding": Whole(0, 4096),
    "inpainting_mask_invert": Whole(0, 1),
}
#: Read elsewhere: pictures, and settings for this request.
STRUCTURED = ("init_images", "mask", "override_settings")

#: What asks for something that is not here, and the values that ask for nothing.
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "restore_faces": (False,),
    "tiling": (False,),
    "styles": ([],),
    "alwayson_scripts": ({},),
    "script_name": ("", "None"),
    "refiner_checkpoint": ("", "None"),
    "subseed_strength": (0,),
    "seed_resize_from_h": (0, -1),
    "seed_resize_from_w": (0, -1),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_min_uncond": (0,),
    "s_noise": (1,),
    "image_cfg_scale": (),
    "initial_noise_multiplier": (1,),
    "latent_mask": ("",),
    "firstpass_image": ("",),
    "infotext": ("",),
}
#: Only of use with a refused one, or about files and tabs of that web UI, which are not here.
IDLE = frozenset({
    "comments", "disable_extra_networks", "do_not_save_grid", "do_not_save_samples",
    "firstphase_height", "firstphase_width", "force_task_id", "hr_additional_modules",
    "hr_cfg", "hr_checkpoint_name", "hr_negative_prompt", "hr_prompt", "hr_resize_x", "hr_resize_y",
    "hr_sampler_name", "hr_scale", "hr_scheduler", "hr_second_pass_steps", "hr_upscaler",
    "override_settings_restore_afterwards", "refiner_switch_at", "s_tmax", "save_images",
    "script_args", "subseed",
})  # fmt: skip
#: Idle where no picture is given.
IDLE_WITHOUT_PICTURES = frozenset({"denoising_strength"})
#: What models of tokens have not, and clients always send: told in the info, not refused.
PLAIN = {
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "cfg_scale": "guidance_scale",
    "eta": "eta",
}


@dataclass
class Asked:
    """A request, its fields checked.

    own: fields with a meaning, by name. pictures, mask: files as base64 or data URLs. settings:
    options for this request alone. ignored: names that mean nothing here.
    """

    own: dict[str, Any] = field(default_factory=dict)
    pictures: list[Any] = field(default_factory=list)
    mask: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Pictures that are asked for."""
        return int(self.own.get("batch_size", 1) * self.own.get("n_iter", 1))

    @property
    def sampler(self) -> str | None:
        """sampler_name wins over sampler_index, its older name."""
        return self.own.get("sampler_name") or self.own.get("sampler_index") or None


def read(given: Mapping[str, Any], with_pictures: bool) -> Asked:
    """A request of a JSON object. Nulls are not given. Raises RequestError."""
    known = {**SHARED, **(OF_PICTURES if with_pictures else {})}
    asked = Asked()
    for name, value in given.items():
        if value is None:
            continue
        if name in known:
            asked.own[name] = _checked(name, value, known[name])
        elif name in REFUSED:
            _refuse(name, value)
        elif with_pictures and name == "init_images":
            asked.pictures = _one_picture(value)
        elif with_pictures and name == "mask":
            asked.mask = value or None
        elif name == "override_settings":
            asked.settings = _settings(value)
        elif name not in IDLE and (with_pictures or name not in IDLE_WITHOUT_PICTURES):
            asked.ignored.append(show(name[:64])[1:-1])
    if with_pictures and not asked.pictures:
        raise RequestError("init_images: expected a list of one picture, given none")
    del asked.ignored[20:]
    return asked


def _checked(name: str, value: Any, kind: Kind | str) -> Any:
    if kind == FLAG:
        if value not in (False, True):  # 0 and 1 will do
            raise checks.refuse(name, "true or false", value)
        return bool(value)
    if isinstance(kind, Words):
        if not isinstance(value, str):
            raise checks.refuse(name, "a text", value)
        return value
    assert isinstance(kind, Whole | Real | Choice)
    if isinstance(kind, Whole) and isinstance(value, float) and value.is_integer():
        value = int(value)
    return kind.check(name, value)


def _refuse(name: str, value: Any) -> None:
    if value not in REFUSED[name]:
        raise RequestError(
            f"{name}: expected none, given {show(value)}: this server has no such thing"
        )


def _one_picture(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) != 1:
        raise checks.refuse("init_images", "a list of one picture", value)
    return value


def _settings(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise checks.refuse("override_settings", "an object", value)
    return value
