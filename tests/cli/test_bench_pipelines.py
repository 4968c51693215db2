"""`pyengine bench pipeline`: a tiny folder of every family, beside diffusers where it has one."""

import inspect
import json

import generators
import if_folders
import kandinsky_folders
import numpy as np
import picture_folders
import pytest
import tiny
import torch
import unclip_folders
from bench_checks import QUICK, check_table

from pyengine.bench import arrangements, contest, pipeline, timing
from pyengine.bench.calls import Asked, Call, call_of, form_of
from pyengine.bench.contest import Contestants
from pyengine.bench.machine import peak_memory
from pyengine.bench.results import OURS
from pyengine.bench.worker import Loaded
from pyengine.pipelines import from_pretrained
from pyengine.pipelines.loading import find_checkpoint
from pyengine.pipelines.registry import families


class Here:
    """A worker in this process: tests/cli/test_bench_workers.py has those in their own."""

    def __init__(self, name, make, threads, **arguments):
        notes = {}
        self.run = make(notes, threads=threads, **arguments)
        self.result = self.run()
        self.loaded = Loaded(notes.pop("load_seconds"), 0.1, notes)

    def sample(self, calls):
        return timing.sampler(self.run, [{}], "cpu")(calls)

    def peaks(self):
        return {"peak_bytes": peak_memory()}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(contest, "Worker", Here)


def save_variant(place):
    return unclip_folders.write(place, variation=True)


def save_instructed(place):
    """InstructPix2Pix' parts are Stable Diffusion's, with a picture's latents beside the noise."""
    tiny.write_sd1(place, unet={"in_channels": 8})
    index = json.loads((place / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionInstructPix2PixPipeline"
    (place / "model_index.json").write_text(json.dumps(index | {"image_encoder": [None, None]}))
    return place


def save_depth(place):
    """Without the network that estimates depth: the call brings that."""
    tiny.write_sd2(place, unet={"in_channels": 5})
    index = json.loads((place / "model_index.json").read_text())
    index |= {"_class_name": "StableDiffusionDepth2ImgPipeline",
              "depth_estimator": ["transformers", "DPTForDepthEstimation"],
              "feature_extractor": ["transformers", "DPTImageProcessor"]}  # fmt: skip
    for name in ("safety_checker", "image_encoder", "requires_safety_checker"):
        index.pop(name, None)
    (place / "model_index.json").write_text(json.dumps(index))
    return place


CLASSES = {"unet": {"num_class_embeds": 10}, "kind": "DDIMPipeline"}
#: Folders that diffusers reads too.
SHARED = {
    "stable_diffusion": tiny.write_sd1,
    "stable_diffusion_xl": tiny.write_sdxl,
    "instruct_pix2pix": save_instructed,
    "image_variation": picture_folders.write_variation,
    "latent_upscale": picture_folders.write_latent_upscaler,
    "dit": tiny.write_dit,
    "ddpm": lambda place: tiny.write_ddpm(place, flat=True),
    "ddim": lambda place: tiny.write_ddpm(place, kind="DDIMPipeline"),
    "deepfloyd_if": if_folders.write,
    "deepfloyd_if_super_resolution": if_folders.write_super_resolution,
    "kandinsky_prior": kandinsky_folders.write_prior,
    "kandinsky": kandinsky_folders.write,
    "kandinsky: ControlNet": lambda place: kandinsky_folders.write(place, kind="Controlnet"),
    "kandinsky: ControlNet from pictures": lambda place: kandinsky_folders.write(
        place, kind="ControlnetImg2Img"
    ),
    "kandinsky: from pictures": lambda place: kandinsky_folders.write(place, kind="Img2Img"),
    "depth_to_image": save_depth,
    "unclip": unclip_folders.write,
    "unclip_image_variation": save_variant,
    "amused": tiny.write_amused,
}
#: Where the pipeline's own would be large.
SIZES = {name: ("--size", "64") for name in SHARED if name.startswith("kandinsky")
         and name != "kandinsky_prior"}  # fmt: skip
#: Those it has no pipeline for.
OWN = {
    "classes": lambda place: tiny.write_ddpm(place, **CLASSES),
    "janus": tiny.write_janus,
    "image_gpt": tiny.write_image_gpt,
    "picture_gpt": tiny.write_picture_gpt,
    "dcgan": generators.write_dcgan,
    "biggan": generators.write_biggan,
    "rrdbnet": generators.write_rrdb,
    "srvgg_compact": generators.write_compact,
}


def measured(run, folder, tmp_path, *options):
    given = ("-m", folder, *QUICK, "--peers", "--save", tmp_path / "p.json")
    status, out, err = run("bench", "pipeline", *given, *options)
    assert status == 0, err
    facts = json.loads((tmp_path / "p.json").read_text())
    check_table(out, facts)
    [row] = facts["rows"]
    assert row["kernels"]
    for found in row["facts"].values():
        assert found["load_seconds"] > 0
        assert found["peak_bytes"] > 1e7
    return facts, row, out


@pytest.mark.parametrize("name", SHARED)
def test_a_family_beside_diffusers(run, tmp_path, name):
    facts, row, _ = measured(run, SHARED[name](tmp_path / name), tmp_path, *SIZES.get(name, ()))
    assert row["name"] == name.split(":")[0]
    assert not facts["missing"]
    assert set(row["times"]) == {OURS, "diffusers"}
    if name == "kandinsky_prior":
        assert row["facts"][OURS]["relative_l2"] <= 1e-4
    else:
        assert row["facts"][OURS]["psnr"] >= 60


@pytest.mark.parametrize("name", OWN)
def test_a_family_without_a_peer(run, tmp_path, name):
    """Held to the specifications then."""
    facts, row, out = measured(run, OWN[name](tmp_path / name), tmp_path)
    assert set(row["times"]) == {OURS}
    assert row["facts"][OURS]["psnr"] >= 60
    assert f"not measured: diffusers: {facts['missing']['diffusers']}" in out
    assert "takes no classes" in out if name == "classes" else "has no pipeline for" in out


# --- random weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in arrangements.NAMES if n != "sd15"])
def test_an_arrangement(run, tmp_path, name):
    given = ("--arrangement", name, "--pictures", "2", *QUICK, "--peers")
    status, _, err = run("bench", "pipeline", *given, "--save", tmp_path / "p.json")
    assert status == 0, err
    [row] = json.loads((tmp_path / "p.json").read_text())["rows"]
    assert row["name"] == name
    assert " x 2" in row["shape"]
    assert set(row["times"]) == ({OURS} if name in ("biggan", "dcgan") else {OURS, "diffusers"})
    assert row["facts"][OURS]["psnr"] >= 60


@pytest.mark.parametrize("name", arrangements.NAMES)
def test_random_pictures_are_pictures(tmp_path, name):
    """Neither of one colour nor black and white alone: their difference then says something."""
    folder = arrangements.write(tmp_path, name, quick=True)
    call = call_of(Asked(find_checkpoint(folder)[0], 64 if name == "sd15" else None), quick=True)
    made = call(from_pretrained(folder, device="cpu"), progress=False)
    assert made.std() > 0.05
    assert ((made > 0.01) & (made < 0.99)).mean() > 0.5


# --- calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_has_a_call(family):
    takes = set(inspect.signature(family.pipeline_class.__call__).parameters)
    form = form_of(family)
    assert set(form.steps) == {name for name in takes if name.endswith("num_inference_steps")}
    assert {"generator", "output_type"} <= takes
    assert {"height", "width"} <= takes or not form.sized


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arrangement", "sd3"), "arrangement: expected one of sd15"),
        (("--arrangement", "dcgan", "--steps", "9"), "steps: a DCGANGenerator has none"),
        (("--arrangement", "ddpm", "--size", "64"), "size: a DDPMPipeline has one of its own"),
        (("--size", "72"), "size: expected a multiple of 64"),
        (("-m", "emoji", "--arrangement", "ddpm"), "arrangement: expected none beside a model"),
        (("-m", "nowhere"), "nowhere"),
    ],
)
def test_wrong_requests(run, options, words):
    status, _, err = run("bench", "pipeline", *QUICK, *options)
    assert status != 0
    assert words in err


def test_another_picture_stops_the_benchmark():
    right = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    images, embeds = Call("", {}, (1,)), Call("", {}, (1,), result="image_embeds")
    for call, wrong, words in (
        (images, right + 0.02, "34.0 dB from diffusers's"),
        (images, right[:, :1], "0.0 dB"),
        (embeds, right * 1.01, "1.0e-02 away from diffusers's"),
        (embeds, right * np.nan, "inf away"),
    ):
        found = Contestants({OURS: Fixed(wrong), "diffusers": Fixed(right)})
        with pytest.raises(RuntimeError, match=words):
            pipeline.check(found, 1, {"call": call})


class Fixed:
    def __init__(self, result):
        self.result = result


def test_a_generator_for_each_picture():
    one, two = (Call("", {}, seeds).generator() for seeds in ((7,), (7, 8)))
    assert isinstance(one, torch.Generator)
    assert [g.initial_seed() for g in two] == [7, 8]
