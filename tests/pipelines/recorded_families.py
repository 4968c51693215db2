"""Further cases of recorded_bits.py: the systems beside Stable Diffusion, each way that they draw.

What gradients guide is left out: it is torch's autograd, whose convolutions have other last bits on
other CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Cases = Iterator[tuple[str, Callable[[], Any]]]
FEW = {"num_inference_steps": 4}
PROMPTED = {"prompt": "a red heart", "negative_prompt": "a dog"}


def _case(pipe: Any, output: str = "latent", **call: Any) -> Callable[[], Any]:
    call = {"seed": [3, 14], "num_images_per_prompt": 2, "output_type": output, **call}
    return lambda: pipe(**call).images


def _photo(height: int, width: int) -> Any:
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    photo = np.stack((x / (width - 1), y / (height - 1), (x // 4 + y // 4) % 2), axis=-1)
    return Image.fromarray((photo * 255).astype(np.uint8))


def _hole(height: int, width: int) -> Any:
    import numpy as np
    from PIL import Image

    hole = np.zeros((height, width), np.uint8)
    hole[height // 4 : height // 2, width // 3 :] = 255
    return Image.fromarray(hole)


def deepfloyd_if(folder: Path) -> Cases:
    import if_folders

    import pyengine

    first = pyengine.from_pretrained(if_folders.write(folder / "if-more"), device="cpu")
    begun = {**PROMPTED, "image": _photo(16, 16), "strength": 0.8, **FEW}
    yield "if: image to image", _case(first, **begun)
    yield "if: inpainting", _case(first, mask_image=_hole(16, 16), **begun)
    composed = {"guidance_method": "composed", "negative_scale": 0.7}
    yield "if: composed between", _case(first, **PROMPTED, **composed, guidance_start=0.2, **FEW)
    place = if_folders.write_super_resolution(folder / "if-2-more")
    second = pyengine.from_pretrained(place, device="cpu")
    painted = {"original_image": _photo(32, 32), "mask_image": _hole(32, 32)}
    yield (
        "if super-resolution: inpainting",
        _case(second, **PROMPTED, image=_photo(16, 16), **painted, **FEW),
    )


def priors(folder: Path) -> Cases:
    """Kandinsky's inpainting and ways of guidance, unCLIP's of a picture and for some steps."""
    import kandinsky_folders
    import torch
    import unclip_folders

    import pyengine

    embeds = torch.linspace(-2, 2, 2 * kandinsky_folders.WIDTH).reshape(2, 1, -1)
    told = {"image_embeds": embeds[0], "negative_image_embeds": embeds[1], "height": 16,
            "width": 24, **FEW}  # fmt: skip
    painter = pyengine.from_pretrained(
        kandinsky_folders.write(folder / "inpaint-more", kind="Inpaint"), device="cpu"
    )
    yield (
        "kandinsky: inpainting",
        _case(painter, image=_photo(16, 24), mask_image=_hole(16, 24), **told),
    )
    plain = pyengine.from_pretrained(kandinsky_folders.write(folder / "decoder-more"), device="cpu")
    yield "kandinsky: cfg++", _case(plain, scheduler="euler", guidance_method="cfg++", **told)
    some = {"guidance_start": 0.2, "guidance_end": 0.7}
    yield "kandinsky: guided between", _case(plain, **some, **told)
    steps = {"decoder_num_inference_steps": 4, "super_res_num_inference_steps": 3}
    unclip = pyengine.from_pretrained(unclip_folders.write(folder / "unclip-more"), device="cpu")
    yield (
        "unclip: guided between",
        _case(unclip, "pt", prompt="a red heart", prior_num_inference_steps=4, **some, **steps),
    )
    variation = pyengine.from_pretrained(
        unclip_folders.write(folder / "variation-more", variation=True), device="cpu"
    )
    yield "unclip: variation of a picture", _case(variation, "pt", image=_photo(37, 53), **steps)


def from_pictures(folder: Path) -> Cases:
    """Stable Diffusion's tasks with U-Nets of their own, and its decoders."""
    import autoencoders
    import test_depth_to_image
    import test_instruct_pix2pix
    import test_sd_upscale
    import tiny
    import torch

    import pyengine

    depth = pyengine.from_pretrained(test_depth_to_image.write(folder / "depth"), device="cpu")
    far = torch.linspace(0, 1, 24)[:, None] * torch.linspace(1, 2, 40)
    yield "depth to image", _case(depth, **PROMPTED, image=_photo(32, 48), depth_map=far, **FEW)
    instructed = pyengine.from_pretrained(
        test_instruct_pix2pix.write(folder / "instruct"), device="cpu"
    )
    yield "instruct pix2pix", _case(instructed, **PROMPTED, image=_photo(32, 48), **FEW)
    upscaler = pyengine.from_pretrained(test_sd_upscale.write(folder / "x4"), device="cpu")
    yield "x4 upscaler", _case(upscaler, **PROMPTED, image=_photo(8, 12), **FEW)
    base = tiny.write_sd1(folder / "decoders", unet={"layers_per_block": 1})
    autoencoders.write_tiny(folder / "taesd")
    begun = {**PROMPTED, "image": _photo(32, 48), "strength": 0.8, **FEW}
    pipe = pyengine.from_pretrained(base, vae=folder / "taesd", device="cpu")
    yield "tiny autoencoder: image to image", _case(pipe, "pt", **begun)
    autoencoders.write_asymmetric(folder / "asymmetric")
    pipe = pyengine.from_pretrained(base, vae=folder / "asymmetric", device="cpu")
    yield "asymmetric autoencoder: inpainting", _case(pipe, "pt", mask_image=_hole(32, 48), **begun)


def one_pass(folder: Path) -> Cases:
    """GANs and upscalers."""
    import generators

    import pyengine
    from pyengine.bench import arrangements

    faces = pyengine.from_pretrained(generators.write_dcgan(folder / "dcgan"), device="cpu")
    yield "dcgan", lambda: faces(num_images=3, seed=[3, 14, 15], output_type="pt").images
    classes = pyengine.from_pretrained(
        arrangements.write(folder, "biggan", quick=True), device="cpu"
    )
    yield (
        "biggan",
        lambda: (
            (
                classes(class_labels=[3, 0], truncation=[0.3, 0.9], seed=[3, 14], output_type="pt")
            ).images
        ),
    )
    for name, write in (("rrdbnet", generators.write_rrdb), ("compact", generators.write_compact)):
        pipe = pyengine.from_pretrained(write(folder / name), device="cpu")
        yield name, lambda pipe=pipe: pipe(_photo(24, 40), tile=24, output_type="pt").images


def cases(folder: Path) -> Cases:
    """All of them."""
    for make in (deepfloyd_if, priors, from_pictures, one_pass):
        yield from make(folder)
