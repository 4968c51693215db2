"""`pyengine generate`: options to a request, pictures to files, and what to say about them."""

import dataclasses
import inspect
import json
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__, metadata
from .. import images as pictures
from ..errors import RequestError
from ..metadata import Settings
from ..pipelines import from_pretrained
from ..pipelines.argument_kinds import Picture
from ..pipelines.arguments import BY_NAME, OPTIONS, REMEMBERED
from ..pipelines.cascade.asked import OF_ALL
from ..pipelines.cascade.loading import cascade
from ..pipelines.cascade.pipeline import CascadePipeline
from ..pipelines.classifiers import guide_hash
from ..pipelines.loading import NAMED, SHIPPED
from ..pipelines.remembered import digest, model_name, of_picture, settings_of
from ..pipelines.upscaling import find_upscaler
from ..preprocess import prepare
from ..schedules import find_name
from ..weights.text import listing, show
from . import concepts, files, preview, warn
from .beside import BESIDE, PARTS, hashes_of, load_ip_adapter

NO_PROMPT = "prompt: expected a prompt or --from PICTURE, given neither"


@dataclass
class Options:
    """The command's options; None is what was not given. call: arguments of the pipeline's call.
    further: models whose stages come after `model`'s.
    """

    prompt: str | None
    output: str | None
    number: int | None
    grid: bool
    model: str | None
    variant: str | None
    ignore_config_key: list[str] | None
    preview: Path | None
    device: str | None
    dtype: str | None
    weights: str | None
    controlnet: str | None
    t2i_adapter: str | None
    control_kind: str | None
    ip_adapter: str | None
    image_encoder: str | None
    vae: str | None
    prior: str | None
    json: bool
    from_picture: Path | None
    lora_dir: Path | None
    embeddings_dir: Path | None
    preset: str | None
    call: dict[str, Any]
    further: list[str] = dataclasses.field(default_factory=list)


#: Arguments that are pictures.
PICTURES = tuple(row.name for row in OPTIONS if isinstance(row.kind, Picture))
#: Arguments that name models whose gradients guide.
GUIDES = ("classifier", "clip_model")


def run(o: Options) -> int:
    saved = None if o.from_picture is None else metadata.read(o.from_picture)
    if o.model is None and saved is None and o.prompt is None:
        raise RequestError(NO_PROMPT)
    again = saved is not None and o.call["seed"] is None and o.number is None
    o = o if saved is None else repeat(o, saved, again)
    o = dataclasses.replace(
        o,
        prompt=read_prompt(o.prompt),
        call=o.call | {"scheduler": sampler(o.call["scheduler"])},
    )
    place = files.place(o.output, o.prompt or "")
    files.check_writable(place.path)
    preview.check(o.preview)
    given, hashes = read_pictures(o, saved)
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loading = {
            "device": o.device or "auto",
            "dtype": o.dtype,
            "variant": o.variant,
            "weights": o.weights,
            "ignore_config_keys": o.ignore_config_key or (),
            "lora_dir": o.lora_dir,
            **{keyword: getattr(o, name) for name, keyword in BESIDE.items()},
            "embeddings_dir": o.embeddings_dir,
            "preset": o.preset,
            **{name: getattr(o, name) for name in PARTS if getattr(o, name) is not None},
        }
        pipe: Any
        if o.further:
            pipe = cascade([o.model, *o.further], **loading)
            o = dataclasses.replace(o, call=pipe.folded(o.call))
        else:
            pipe = from_pretrained(o.model, **loading)
        if pipe.makes != "pictures":
            raise RequestError(
                f"--model: a {pipe._class_name} makes {pipe.makes}, not pictures; call it from"
                " Python"
            )
        loaded = time.perf_counter() - begin
        if o.call["upscaler"] is not None:
            given["upscaler"] = find_upscaler(o.call["upscaler"], pipe.device, pipe._kept)
            hashes["upscaler"] = given["upscaler"].model_hash
        for name in GUIDES:
            if o.call[name] is not None:
                hashes[name] = guide_hash(o.call[name])
        load_ip_adapter(o, pipe)
        hashes.update(hashes_of(o))
        hashes["control_kind"] = o.control_kind
        if saved is not None:
            compare(saved, pipe, hashes)
        shown = preview.begin(o.preview, pipe, o.json)
        own = arguments(o, pipe, given, saved is not None)
        if shown is not None:
            own["callback_on_step_end"] = shown
        result = pipe(**own)
    if shown is not None:
        shown.finish(result.images)
    hint = concepts.hint(o.prompt or "", concepts.of(checkpoint_of(pipe)), pipe.source)
    if hint is not None:
        result.report.warnings.append(hint)
    for message in dict.fromkeys([*ours(caught), *result.report.warnings]):
        warn(message)
    result.report.seconds = {"load": loaded, **result.report.seconds}
    settings = describe(o, pipe, result, hashes)
    if saved is not None:
        compare_adapters(saved, settings)
    only = saved.index if again and saved is not None else None
    written, replaced = write(o, place, result, settings, only)
    tell(o, written, replaced, settings, result.report)
    return 0


def ours(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """What our own code warned of, not torch or another library."""
    plain = (
        w for w in caught if w.category is UserWarning and "torch" not in Path(w.filename).parts
    )
    return [str(w.message) for w in plain]


def read_prompt(prompt: str | None) -> str | None:
    """The prompt; what stands on standard input for "-"."""
    if prompt != "-":
        return prompt
    try:
        text = "" if sys.stdin is None else sys.stdin.read()
    except UnicodeDecodeError:
        raise RequestError("prompt: expected UTF-8 on standard input") from None
    if not text.strip():
        raise RequestError("prompt: expected one on standard input, given nothing")
    return text.rstrip("\r\n")


def sampler(name: str | None) -> str | None:
    """Our name for a sampler, by which pictures remember it."""
    return None if name is None else find_name(name)


def checkpoint_of(pipe: Any) -> Any:
    """The pipeline's, or that of a cascade's first stage."""
    return checkpoint_of(pipe.stages[0]) if isinstance(pipe, CascadePipeline) else pipe.checkpoint


def arguments(o: Options, pipe: Any, given: dict[str, Any], repeated: bool) -> dict[str, Any]:
    """The arguments of the pipeline's call. given: the pictures among them, read."""
    takes = inspect.signature(pipe.__call__).parameters
    own = {"prompt": o.prompt, "num_images_per_prompt": o.number, **o.call, **given}
    own = {name: value for name, value in own.items() if value is not None}
    if not any(row.name in takes for row in OPTIONS if row.tokens):
        for row in OPTIONS:
            if row.tokens and row.name in own:
                raise RequestError(f"{row.name}: this model draws no tokens")
    if repeated and not hasattr(pipe.defaults, "num_inference_steps"):
        own.pop("num_inference_steps", None)  # as many as there are tokens, or one pass
    if repeated:
        # A model's only size; the guidance of a stage, whose own argument is remembered too.
        for name in ("guidance_scale", "height", "width"):
            if name not in takes:
                own.pop(name, None)
    if "prompt" in takes:
        if o.prompt is None:
            raise RequestError(NO_PROMPT)
    elif not o.prompt:
        own.pop("prompt", None)
    return own


# --- repeating a picture --------------------------------------------------------------------------


def repeat(o: Options, saved: Settings, again: bool) -> Options:
    """The options with what was not given filled in from a picture's settings.

    again: the very same batch, so that the very same picture comes out.
    """
    call = {
        row.name: getattr(saved, row.setting or "")
        for row in REMEMBERED
        if row.name in o.call and o.call[row.name] is None
    }
    for name, what in (
        ("image", "the picture was made from another"),
        ("mask_image", "the picture was made with a mask"),
        ("original_image", "the picture was made from an original"),
        ("prefix", "the picture was completed from another"),
        ("clip_image", "the picture was guided to another"),
        ("control_image", "the picture was made beside a ControlNet or T2I-Adapter"),
        ("ip_adapter_image", "the picture had another as a prompt"),
        ("upscaler", "the picture was enlarged by an upscaler"),
        ("classifier", "the picture was guided by a classifier"),
        ("clip_model", "the picture was guided by a CLIP"),
    ):
        option = BY_NAME[name].option or ""
        if o.call[name] is None and getattr(saved, option) is not None:
            raise RequestError(f"from: {what}: expected it as --{option.replace('_', '-')}")
    if saved.loras and o.lora_dir is None:
        names = listing(show(name) for name, _ in saved.files_of_loras)
        raise RequestError(
            f"from: the picture was drawn with LoRAs, {names}: expected --lora-dir"
            " with the folder that holds them"
        )
    for name in (*BESIDE, "ip_adapter"):
        if getattr(o, name) is None and getattr(saved, name) is not None:
            option = name.replace("_", "-")
            raise RequestError(
                f"from: the picture was made with a network beside the model:"
                f" expected it as --{option}"
            )
    for name in PARTS:
        if getattr(o, name) is None and getattr(saved, name) is not None:
            raise RequestError(
                f"from: the picture was made with another checkpoint's {name}:"
                f" expected it as --{name}"
            )
    if saved.embeddings and o.embeddings_dir is None:
        names = listing(show(name) for name, _ in saved.files_of_embeddings)
        raise RequestError(
            f"from: the picture was drawn with textual inversions, {names}: expected"
            " --embeddings-dir with the folder that holds them"
        )
    if o.call["image"] is None and o.call["original_image"] is None:
        call["strength"] = None
    if saved.stages is not None:  # which hold all that was asked of a cascade's stages
        call = {name: call.get(name) for name in call if name in OF_ALL or name == "stages"}
    filled: dict[str, Any] = {"prompt": saved.prompt} if o.prompt is None else {}
    if o.control_kind is None:
        filled["control_kind"] = saved.control_kind
    if o.model is None and saved.model in NAMED[1:]:
        filled["model"] = saved.model
    elif o.model is None and saved.model != SHIPPED:
        # A stranger's file does not choose what is loaded or downloaded.
        raise RequestError(
            f"from: the picture was made with {show(saved.model)}: expected --model"
            " with the place of it"
        )
    if again:
        if saved.first_seed is None:
            raise RequestError("from: the picture's seed is not known")
        call["seed"] = saved.first_seed
        filled |= {"number": saved.count, "grid": saved.index is None}
    elif o.call["seed"] is None:
        call["seed"] = saved.seed
    if o.dtype is None:
        filled["dtype"] = saved.dtype
    if o.weights is None:
        filled["weights"] = saved.weights
    if o.preset is None:
        filled["preset"] = saved.preset
    if o.device is None and saved.device == "cpu":
        filled["device"] = "cpu"
    return dataclasses.replace(o, call=o.call | call, **filled)


def compare(saved: Settings, pipe: Any, hashes: dict[str, str | None]) -> None:
    """Warns of what makes a repeated picture come out different. hashes: of the models beside the
    pipeline's own, by argument.
    """
    for name in ("upscaler", *GUIDES, *BESIDE, *PARTS, "ip_adapter"):
        before = getattr(saved, name)
        if before is not None and before != hashes.get(name):
            warn(f"{name}: not the one that was used before")
    if saved.model_hash != pipe.model_hash:
        warn(
            f"the picture was made with weights {show(saved.model_hash[:10])}, these are"
            f" {pipe.model_hash[:10]}: it will look different"
        )
    if saved.version != __version__:
        warn(f"the picture was made with pyengine {show(saved.version)}, this is {__version__}")
    if saved.device != pipe.device.type:
        warn(f"the picture was made on {show(saved.device)}, this is {pipe.device.type}")


def compare_adapters(saved: Settings, now: Settings) -> None:
    """Warns of LoRAs and textual inversions that are not those that were used before."""
    for what in ("lora", "embedding"):
        before, found = (dict(getattr(s, f"files_of_{what}s")) for s in (saved, now))
        for name in sorted({n for n in before | found if before.get(n) != found.get(n)}):
            warn(f"{what}: {show(name)} is not the one that was used before")


def read_pictures(
    o: Options, saved: Settings | None
) -> tuple[dict[str, Any], dict[str, str | None]]:
    """(the pictures among the call's arguments, their SHA-256 by the names in Settings)."""
    found, hashes = {}, {}
    for name, path in ((n, o.call[n]) for n in PICTURES):
        option = BY_NAME[name].option or ""
        read = pictures.load_mask if name == "mask_image" else pictures.load_image
        image = None if path is None else read(path, option.replace("_", "-"))
        if name == "control_image" and o.control_kind is not None:
            if image is None:
                raise RequestError("control-kind: expected --control with it, given none")
            image = prepare(image, o.control_kind)
        found[name] = image
        hashes[option] = None if image is None else digest(image)
        before = None if saved is None else getattr(saved, option)
        if before is not None and hashes[option] != before:
            warn(f"{option.replace('_', '-')}: not the picture that was used before")
    return found, hashes


# --- files ----------------------------------------------------------------------------------------


def describe(o: Options, pipe: Any, result: Any, hashes: dict[str, Any]) -> Settings:
    """The settings of the batch; a picture's own seed and index are filled in by `write`."""
    call = {"prompt": o.prompt, **o.call}
    names = " + ".join(map(model_name, [o.model, *o.further]))
    return settings_of(pipe, call, result, model=names, hashes=hashes)


def write(
    o: Options, place: files.Place, result: Any, settings: Settings, only: int | None
) -> tuple[list[Path], list[Path]]:
    """Writes the sheet, the picture `only`, or all of them; (the files, those replaced)."""
    if o.grid:
        return place.save([pictures.grid(result.images)], [metadata.png_info(settings)])
    chosen = range(len(result.images)) if only is None else [only]
    own = [of_picture(settings, result, i) for i in chosen]
    return place.save([result.images[i] for i in chosen], [metadata.png_info(s) for s in own])


# --- what to say ----------------------------------------------------------------------------------


def tell(
    o: Options, written: list[Path], replaced: list[Path], settings: Settings, report: Any
) -> None:
    if o.json:
        answer = {
            "files": [str(f) for f in written],
            "replaced": [str(f) for f in replaced],
            "settings": dataclasses.asdict(settings),
            "report": {**dataclasses.asdict(report), "tokens_per_pass": report.tokens_per_pass},
        }
        print(json.dumps(answer))
        return
    for file in written:
        print(file)
    if replaced:
        print(f"  replaced {', '.join(map(str, replaced))}")
    first = settings.first_seed or 0
    seeds = f"seed {first}" + (f" to {first + settings.count - 1}" if settings.count > 1 else "")
    tier = f" with weights in {report.weights}" if report.weights else ""
    print(
        f"  {settings.width}x{settings.height}, {seeds}, {report.steps} steps of"
        f" {settings.sampler}, guidance {settings.guidance_scale:g}, model {settings.model}"
        f" ({settings.model_hash[:10]}), {report.dtype}{tier} on {report.device}"
    )
    stages = ", ".join(f"{name.replace('_', ' ')} {s:.2f} s" for name, s in report.seconds.items())
    memory = "" if report.peak_memory is None else f"; at most {report.peak_memory >> 20} MB"
    print(f"  {stages}{memory}")
    if report.decoding not in (None, "sequential"):
        print(f"  {report.tokens_per_pass:.2f} tokens a pass")
    print(f"  kernels: {', '.join(f'{op} {name}' for op, name in report.kernels.items())}")
    sys.stdout.flush()
