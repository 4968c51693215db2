"""Digests of what every kind of pipeline draws, held against those on record by whoever moves code.

    python tests/pipelines/recorded_bits.py --record       # writes recorded_bits.json anew

The kernels' bits depend on their instruction set, so there is a column for each. torch's own
functions depend on the CPU too: by ATEN_CPU_CAPABILITY, which is held at avx2, and where they are
MKL's by its kind, so they are computed in float64 and rounded here (`rounded_functions`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE / "recorded_bits.json"
#: The samplers that were there when the record began; a new one's bits are held by its own tests.
SAMPLERS = (
    "ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_karras", "euler", "euler_ancestral", "heun", "lcm",
    "unipc",
)  # fmt: skip
SIZE = {"height": 40, "width": 32}


def digest(tensor: Any) -> str:
    data = tensor.detach().contiguous().numpy()
    return hashlib.sha256(f"{data.shape}{data.dtype}".encode() + data.tobytes()).hexdigest()[:16]


#: torch's functions of float32 that are MKL's or oneDNN's on a CPU. Their code for each kind of CPU
#: has other last bits: of an embedding's sines 5% are not the float32 numbers nearest to them on an
#: Intel CPU, and not the same 5% on an AMD CPU.
OF_MKL = frozenset(
    f"aten.{name}"
    for name in (
        "acos", "addmm", "baddbmm", "bmm", "convolution", "convolution_backward", "cos", "erf",
        "exp", "expm1", "log", "log10", "log1p", "log2", "mm", "mv", "pow", "rsqrt", "sigmoid",
        "sin", "sqrt", "tan", "tanh",
    )
)  # fmt: skip


def rounded_functions() -> Any:
    """A context in which float32 results of OF_MKL are those of float64, rounded: once in some 10^8
    numbers they depend on the CPU.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class RoundedFunctions(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            tensors = [x for x in args if isinstance(x, torch.Tensor)]
            narrow = {x.dtype for x in tensors} == {torch.float32}
            if str(func.overloadpacket) not in OF_MKL or not narrow:
                return func(*args, **kwargs)
            wide = (x.double() if isinstance(x, torch.Tensor) else x for x in args)
            found = func(*wide, **kwargs)
            if isinstance(found, tuple):  # gradients, of which some may not be asked for
                return tuple(None if x is None else x.float() for x in found)
            return found.float()

    return RoundedFunctions()


def diffusion(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of the latent diffusion models."""
    import numpy as np
    from pairs import WRITERS
    from PIL import Image

    import pyengine

    y, x = np.mgrid[0:48, 0:80]
    photo = np.stack((x / 79, y / 47, (x // 8 + y // 8) % 2), axis=-1)
    photo = Image.fromarray((photo * 255).astype(np.uint8))
    hole = np.zeros((48, 80), np.uint8)
    hole[10:37, 19:60] = 255
    sized = {"height": 48, "width": 80, "strength": 0.8}

    def case(pipe: Any, output: str = "latent", **call: Any) -> Callable[[], Any]:
        call = {"seed": [3, 14], "num_images_per_prompt": 2, "num_inference_steps": 4, **call}
        return lambda: pipe("a red heart", output_type=output, **call).images

    for name in ("sd1", "sd2", "sdxl", "inpaint", "lcm", "pndm"):
        pipe = pyengine.from_pretrained(WRITERS[name](folder / name), device="cpu")
        masked = {"image": photo, "mask_image": Image.fromarray(hole), **sized}
        if name == "inpaint":
            yield f"{name}: inpainting", case(pipe, scheduler="euler_ancestral", **masked)
            continue
        yield f"{name}: picture", case(pipe, "pt", **SIZE)
        if name == "pndm":
            continue
        for sampler in SAMPLERS:
            yield f"{name}: {sampler}", case(pipe, scheduler=sampler, **SIZE)
        if name == "lcm":
            continue
        begun = {"scheduler": "euler_ancestral", "image": photo, **sized}
        yield f"{name}: image to image", case(pipe, **begun)
        yield f"{name}: inpainting", case(pipe, scheduler="dpmpp_2m", **masked)
        yield f"{name}: rescaled", case(pipe, guidance_rescale=0.7, clip_skip=1, **SIZE)
        yield f"{name}: unguided", case(pipe, guidance_scale=1.0, **SIZE)
    shipped = pyengine.from_pretrained("emoji", device="cpu")
    for sampler in SAMPLERS:
        yield f"emoji: {sampler}", case(shipped, scheduler=sampler)
    yield "emoji: picture", case(shipped, "pt")


def beside(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of Stable Diffusion beside ControlNets and adapters."""
    import control_networks
    import image_prompt_files
    import numpy as np
    import tiny
    from PIL import Image
    from safetensors.torch import save_file

    import pyengine

    photo = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    photo = Image.fromarray(photo.repeat(8, 0).repeat(8, 1))
    call = {"seed": [3, 14], "num_images_per_prompt": 2, "num_inference_steps": 4}

    def case(pipe: Any, **own: Any) -> Callable[[], Any]:
        return lambda: pipe("a red heart", output_type="latent", **{**call, **own}).images

    unet = tiny.make_unet(layers_per_block=1)
    base = tiny.write_sd1(folder / "beside", unet={"layers_per_block": 1})
    control_networks.make_controlnet(unet).save_pretrained(folder / "controlnet")
    pipe = pyengine.from_pretrained(base, controlnet=folder / "controlnet", device="cpu")
    yield "controlnet: picture", case(pipe, image=photo)
    yield "controlnet: guess", case(pipe, image=photo, guess_mode=True, control_guidance_end=0.6)
    xl = tiny.make_unet(**tiny.SDXL_UNET, layers_per_block=1)
    control_networks.make_union(xl).save_pretrained(folder / "union")
    place = tiny.write_sdxl(folder / "beside-xl", unet={"layers_per_block": 1})
    pipe = pyengine.from_pretrained(place, controlnet=folder / "union", device="cpu")
    yield "union: two kinds", case(pipe, control_image=[photo, photo], control_mode=[0, 3])
    control_networks.make_adapter().save_pretrained(folder / "adapter")
    pipe = pyengine.from_pretrained(base, adapter=folder / "adapter", device="cpu")
    yield "t2i-adapter", case(pipe, image=photo, adapter_conditioning_factor=0.5)
    encoder = tiny.make_image_encoder(**image_prompt_files.IMAGE)
    encoder.save_pretrained(folder / "ip" / "image_encoder")
    for kind in ("base", "plus", "full"):
        file = folder / "ip" / f"{kind}.safetensors"
        save_file(image_prompt_files.tensors_of(kind, unet), file)
        pipe = pyengine.from_pretrained(base, device="cpu")
        pipe.load_ip_adapter(file, image_encoder=folder / "ip" / "image_encoder")
        yield f"ip-adapter: {kind}", case(pipe, ip_adapter_image=photo, ip_adapter_scale=0.7)


def labelled(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of the diffusion models that read no text."""
    import diffusers
    import tiny

    import pyengine

    def case(pipe: Any, output: str = "latent", **call: Any) -> Callable[[], Any]:
        call = {"seed": [3, 14], "num_images_per_prompt": 2, "num_inference_steps": 4, **call}
        return lambda: pipe(output_type=output, **call).images

    learned = diffusers.DDPMScheduler(variance_type="learned_range")
    adm = {
        "unet": {
            "num_class_embeds": 10, "out_channels": 6, "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet", "upsample_type": "resnet",
        },
        "scheduler": learned,
    }  # fmt: skip
    for name, made in (("ddpm", {}), ("ddim", {"kind": "DDIMPipeline"}), ("ddpm-adm", adm)):
        pipe = pyengine.from_pretrained(tiny.write_ddpm(folder / name, **made), device="cpu")
        labels = {"class_labels": 3} if name == "ddpm-adm" else {}
        yield f"{name}: picture", case(pipe, "pt", **labels)
        for sampler in ("ddim", "ddpm", "euler_ancestral", "heun"):
            yield f"{name}: {sampler}", case(pipe, scheduler=sampler, **labels)
    yield "ddpm-adm: ddim with noise", case(pipe, scheduler="ddim", eta=0.7, class_labels=1)
    pipe = pyengine.from_pretrained(tiny.write_dit(folder / "dit"), device="cpu")
    yield "dit: picture", case(pipe, "pt", class_labels=3)
    yield "dit: unguided", case(pipe, class_labels=5, guidance_scale=1.0)
    yield "dit: dpmpp_2m", case(pipe, class_labels=5, scheduler="dpmpp_2m")


def cascades(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of DeepFloyd IF, Kandinsky 2.2 and unCLIP."""
    import if_folders
    import kandinsky_folders
    import torch
    import unclip_folders

    import pyengine

    def case(pipe: Any, *prompt: Any, output: str = "latent", **call: Any) -> Callable[[], Any]:
        call = {"seed": [3, 14], "num_images_per_prompt": 2, "output_type": output, **call}
        return lambda: pipe(*prompt, **call).images

    few = {"num_inference_steps": 4}
    first = pyengine.from_pretrained(if_folders.write(folder / "if"), device="cpu")
    yield "if: picture", case(first, "a red heart", output="pt", **few)
    yield "if: dpmpp_2m", case(first, "a red heart", scheduler="dpmpp_2m", **few)
    yield "if: unguided", case(first, "a red heart", guidance_scale=1.0, **few)
    place = if_folders.write_super_resolution(folder / "if-2")
    second = pyengine.from_pretrained(place, device="cpu")
    small = torch.linspace(0, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    yield "if super-resolution: picture", case(second, "a red heart", output="pt", image=small,
                                               **few)  # fmt: skip
    prior = kandinsky_folders.write_prior(folder / "prior")
    decoder = kandinsky_folders.write(folder / "decoder")
    both = pyengine.from_pretrained(decoder, prior=prior, device="cpu")
    sized = {**few, "prior_num_inference_steps": 3, "height": 16, "width": 24}
    yield "kandinsky: picture", case(both, "a red heart", output="pt", **sized)
    yield "kandinsky: negative", case(both, "a red heart", "a dog", scheduler="euler", **sized)
    pixels = 1 - torch.nn.functional.interpolate(small, (16, 24))
    yield (
        "kandinsky: image to image",
        case(both, "a red heart", image=pixels, strength=0.6, **sized),
    )
    hinted = kandinsky_folders.write(folder / "hinted", kind="Controlnet")
    hinted = pyengine.from_pretrained(hinted, device="cpu")
    embeds = torch.linspace(-2, 2, 2 * kandinsky_folders.WIDTH).reshape(2, 1, -1)
    told = {
        "image_embeds": embeds[0], "negative_image_embeds": embeds[1], "height": 12, "width": 16,
        "hint": torch.nn.functional.interpolate(small, (48, 64)), **few,
    }  # fmt: skip
    yield "kandinsky controlnet: picture", case(hinted, output="pt", **told)
    yield (
        "kandinsky controlnet: image to image",
        case(hinted, image=pixels, strength=0.6, **told),
    )
    prior_alone = pyengine.from_pretrained(prior, device="cpu")
    yield "kandinsky prior", case(prior_alone, "a red heart", output="pt", **few)
    steps = {
        "decoder_num_inference_steps": 4, "super_res_num_inference_steps": 3, "output": "pt"
    }  # fmt: skip
    unclip = pyengine.from_pretrained(unclip_folders.write(folder / "unclip"), device="cpu")
    yield "unclip: picture", case(unclip, "a red heart", prior_num_inference_steps=3, **steps)
    plain = {"prior_guidance_scale": 1.0, "decoder_guidance_scale": 1.0}
    yield "unclip: unguided", case(unclip, "a red heart", prior_num_inference_steps=3, **plain,
                                   **steps)  # fmt: skip
    place = unclip_folders.write(folder / "variation", variation=True)
    variation = pyengine.from_pretrained(place, device="cpu")
    embeds = torch.linspace(-2, 2, unclip_folders.WIDTH)[None]
    yield "unclip: variation", case(variation, image_embeddings=embeds, **steps)


def tokens(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of the models that draw tokens."""
    import tiny

    import pyengine

    def case(pipe: Any, **call: Any) -> Callable[[], Any]:
        prompt = [["a red heart", "two cats and a dog"]] * pipe.takes_prompt
        call = {"seed": [3, 14, 15, 92][: 4 if prompt else 2], **call}
        return lambda: pipe(*prompt, num_images_per_prompt=2, **call).tokens

    for name in ("amused", "janus", "image_gpt", "picture_gpt", "emoji-ar"):
        if name == "emoji-ar":
            pipe = pyengine.from_pretrained(name, device="cpu")
        else:
            write = getattr(tiny, f"write_{name}")
            pipe = pyengine.from_pretrained(write(folder / name), device="cpu")
        yield f"{name}: tokens", case(pipe)
        if name == "amused":
            yield f"{name}: guided", case(pipe, guidance_scale=3.0, num_inference_steps=5)
            continue
        yield f"{name}: likeliest", case(pipe, temperature=0.0)
        yield f"{name}: sampling", case(pipe, temperature=0.9, top_k=12, top_p=0.9, min_p=0.01)
        yield f"{name}: jacobi", case(pipe, decoding="jacobi", window=5)
        yield f"{name}: jacobi-gumbel", case(pipe, decoding="jacobi-gumbel", window=4)
        yield f"{name}: prefix", case(pipe, prefix=[1, 2, 3])
        if pipe.takes_prompt:
            yield f"{name}: unguided", case(pipe, guidance_scale=1.0)
            yield f"{name}: negative", case(pipe, guidance_scale=2.0, negative_prompt="blue")
    eight = pyengine.from_pretrained("emoji-ar", device="cpu", weights="int8")
    yield "emoji-ar: int8", case(eight)


def from_pictures(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of what begins from pictures, with models of its own."""
    import numpy as np
    import picture_folders
    import torch
    from PIL import Image

    import pyengine

    photo = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    call = {"num_inference_steps": 4, "output_type": "latent"}
    variation = pyengine.from_pretrained(
        picture_folders.write_variation(folder / "image-variation"), device="cpu"
    )
    yield (
        "image variation: picture",
        lambda: (
            variation(
                Image.fromarray(photo), seed=[3, 14], num_images_per_prompt=2, **SIZE, **call
            ).images
        ),
    )
    upscaler = pyengine.from_pretrained(
        picture_folders.write_latent_upscaler(folder / "latent-upscaler"), device="cpu"
    )
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(5))
    yield "latent upscaler: guided", lambda: upscaler("a red heart", latents, seed=3, **call).images
    yield (
        "latent upscaler: unguided",
        lambda: (
            upscaler(
                "a red heart", latents, guidance_scale=0, scheduler="dpmpp_2m", seed=3, **call
            ).images
        ),
    )


def small(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of the small models that ship, one of each family."""
    import numpy as np
    from PIL import Image

    import pyengine

    y, x = np.mgrid[0:64, 0:64]
    photo = np.stack((x * 4, y * 4, (x // 8 + y // 8) % 2 * 255), axis=-1).astype(np.uint8)
    hole = Image.fromarray(np.where((x > 20) & (y > 30), 255, 0).astype(np.uint8))

    def case(pipe: Any, output: str = "pt", **call: Any) -> Callable[[], Any]:
        call = {"seed": [3, 14], "num_images_per_prompt": 2, **call}
        return lambda: pipe("a red heart", output_type=output, **call).images

    def coded(pipe: Any) -> Callable[[], Any]:
        return lambda: pipe.encode(photo, "a red heart")

    few = {"num_inference_steps": 4}
    calls: dict[str, list[dict[str, Any]]] = {
        "one-shot": [{}], "vae": [{}], "gan": [{}], "flow": [{"temperature": 0.9}],
        "pixels": [{"output": "latent"}, {"output": "latent", "guidance_scale": 1.0}],
        "masked": [few, {"image": Image.fromarray(photo), "mask_image": hole, **few}],
        "ddpm": [few, {"guidance_scale": 1.0, "scheduler": "euler_ancestral", **few}],
        "cascade": [{"super_res_num_inference_steps": 3, **few}],
        "prior": [{"prior_num_inference_steps": 3, **few}],
    }  # fmt: skip
    for name, own in calls.items():
        pipe = pyengine.from_pretrained(f"emoji-{name}", device="cpu")
        for number, call in enumerate(own):
            yield f"emoji-{name}: picture {number}", case(pipe, **call)
        if hasattr(pipe, "encode"):
            yield f"emoji-{name}: encode", coded(pipe)


def guided(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(case, function that draws it) of emoji, guided by gradients of the models that ship."""
    import pyengine

    pipe = pyengine.from_pretrained("emoji", device="cpu")

    def case(prompt: str, **call: Any) -> Callable[[], Any]:
        call = {"seed": 3, "num_inference_steps": 3, "guidance_scale": 1.0, **call}
        return lambda: pipe(prompt, output_type="latent", **call).images

    classes = {"classifier": "emoji-classifier", "class_labels": 5, "classifier_scale": 3.0}
    for sampler in ("ddim", "ddpm", "euler"):
        yield f"emoji-classifier: {sampler}", case("", scheduler=sampler, **classes)
    clip = {"clip_model": "emoji-clip", "clip_prompt": "a red heart", "clip_guidance_scale": 100.0}
    yield "emoji-clip: ddim", case("a fox", **clip)
    yield "emoji-classifier and emoji-clip", case("a fox", guidance_scale=2.0, **classes, **clip)


def digests() -> dict[str, str]:
    """Every case's, by the instruction set of this process."""
    import recorded_families
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = [*diffusion(Path(folder)), *labelled(Path(folder)),
                 *cascades(Path(folder)), *tokens(Path(folder)),
                 *beside(Path(folder)), *from_pictures(Path(folder)),
                 *small(Path(folder)), *guided(Path(folder)),
                 *recorded_families.cases(Path(folder))]  # fmt: skip
        with rounded_functions():
            return {name: digest(draw()) for name, draw in cases}


def digests_of(isa: str) -> dict[str, str]:
    """`digests` in a process of its own, by the kernels of `isa`."""
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYENGINE_ISA": isa,
        "ATEN_CPU_CAPABILITY": "avx2",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true", help="write the record anew")
    if not parser.parse_args().record:
        print(json.dumps(digests()))
        return
    from pyengine import ops

    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for isa in ("portable", "avx2", "avx512"):
        if not ops.isas().get(isa, "is not in this build"):
            record[isa] = digests_of(isa)
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
