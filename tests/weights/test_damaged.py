"""Every kind of damage is refused: by our own errors, within a second, without taking memory."""

from __future__ import annotations

import functools
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import adm_classifier
import autoencoders
import clip_folders
import damage_beside
import damage_cascades
import damage_configs
import damage_files
import damage_generators
import damage_kandinsky
import damage_labelled
import damage_pictures
import damage_single
import damage_tensors
import damage_unets
import generators
import if_folders
import kandinsky_folders
import picture_folders
import pytest
import tiny
import torch
import unclip_folders
from damage import CASES
from whole import load

import pyengine
from pyengine.errors import CheckpointError
from pyengine.models import AsymmetricAutoencoderKL, AutoencoderTiny, EncoderUNetModel
from pyengine.pipelines.clip_guides import load_clip

MEMORY = 64 << 20
#: Writers of what fixtures do not make: folders, and files where the name ends otherwise.
GENERATORS = {
    "ddpm_folder": tiny.write_ddpm,
    "dit_folder": tiny.write_dit,
    "flat_folder": functools.partial(tiny.write_ddpm, flat=True),
    "kandinsky_folder": kandinsky_folders.write,
    "prior_folder": kandinsky_folders.write_prior,
    "if_folder": if_folders.write,
    "unclip_folder": unclip_folders.write,
    "variation_folder": functools.partial(unclip_folders.write, variation=True),
    "image_variation_folder": picture_folders.write_variation,
    "latent_upscale_folder": picture_folders.write_latent_upscaler,
    "classifier_folder": adm_classifier.write,
    "clip_folder": clip_folders.write,
    "tiny_folder": autoencoders.write_tiny,
    "asymmetric_folder": autoencoders.write_asymmetric,
    "dcgan": generators.write_dcgan,
    "dcgan_folder": generators.write_dcgan,
    "biggan_folder": generators.write_biggan,
    "rrdb": lambda place: generators.write_rrdb(place, kind="old"),
    "rrdb_folder": generators.write_rrdb,
    "compact": generators.write_compact,
}
#: How they are loaded, where not part by part: as pipelines, whose parts must fit, or one model.
LOADERS = {
    **dict.fromkeys(("prior_folder", "if_folder", "unclip_folder", "variation_folder",
                     "image_variation_folder", "latent_upscale_folder"),
                    functools.partial(pyengine.from_pretrained, device="cpu")),
    "classifier_folder": EncoderUNetModel.from_pretrained,
    "clip_folder": functools.partial(load_clip, device=torch.device("cpu")),
    "tiny_folder": AutoencoderTiny.from_pretrained,
    "asymmetric_folder": AsymmetricAutoencoderKL.from_pretrained,
}  # fmt: skip
SECONDS = 1.0

assert all(
    (
        damage_beside,
        damage_cascades,
        damage_configs,
        damage_files,
        damage_generators,
        damage_kandinsky,
        damage_labelled,
        damage_pictures,
        damage_single,
        damage_tensors,
        damage_unets,
    )
)  # importing them fills CASES


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    return tiny.write_sd1(tmp_path_factory.mktemp("sharded") / "c", max_shard_size="100KB")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(base) -> the good checkpoint of one of GENERATORS. Do not change it: copy it."""
    root, places = tmp_path_factory.mktemp("made"), {}

    def find(base: str) -> Path:
        if base not in places:
            place = root / f"{base}{'' if base.endswith('folder') else '.safetensors'}"
            GENERATORS[base](place)
            places[base] = place
        return places[base]

    return find


@pytest.fixture
def good(request, tmp_path, made):
    """good(base) -> a copy of the good checkpoint that the case starts from."""

    def copy(base: str) -> Path:
        if base in ("folder", "sharded"):
            source = request.getfixturevalue("sd1" if base == "folder" else "sharded")
            return Path(shutil.copytree(source, tmp_path / "checkpoint"))
        if base in GENERATORS:
            if "biggan" in base and not generators.installed("pytorch_pretrained_biggan"):
                pytest.skip("pytorch-pretrained-biggan is not installed")
            source = made(base)
            copied = tmp_path / f"checkpoint{source.suffix}"
            copy_all = shutil.copytree if source.is_dir() else shutil.copyfile
            return Path(copy_all(source, copied))
        source = request.getfixturevalue("single")({"sdxl_file": "sdxl"}.get(base, base))
        folder = Path(shutil.copytree(source.parent, tmp_path / "single"))
        return folder / source.name

    return copy


def peak_memory(reset: bool = False) -> int:
    """The process's largest resident size, in bytes, since the last reset."""
    if reset:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def bytes_on_disk(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_blocks * 512 for p in files)


@pytest.fixture
def alarm():
    """Fails the test, instead of hanging, after a minute."""

    def ring(*_):
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(path, options, load=load) -> tuple[CheckpointError, float, int]:
    """(error, seconds, bytes of memory) of loading `path`; of this process's own time, since on a
    busy machine any try may have to wait, and of three tries the quickest."""
    tries = []
    while not tries or (tries[-1][1] >= SECONDS and len(tries) < 3):
        before, start = peak_memory(reset=True), time.process_time()
        with pytest.raises(CheckpointError) as caught:
            load(path, **options)
        tries.append((caught.value, time.process_time() - start, peak_memory() - before))
    return tries[-1][0], min(t[1] for t in tries), max(t[2] for t in tries)


def test_there_are_many():
    assert len(CASES) >= 170


@pytest.mark.parametrize("base", ["folder", "sharded", "sd1", "sdxl_file", *GENERATORS])
def test_undamaged_loads(base, good):
    LOADERS.get(base, load)(good(base))


@pytest.mark.parametrize("name", CASES)
def test_refused(name, good, alarm):
    case = CASES[name]
    path = good(case.base)
    path = case.damage(path) or path
    error, seconds, grown = refusal(path, case.options, LOADERS.get(case.base, load))
    assert type(error) is case.error, error
    message = str(error)
    assert re.search(case.message, message, re.DOTALL), message
    assert message.isprintable(), "control characters of a stranger reach the terminal"
    assert len(message) < 6000
    assert seconds < SECONDS
    size = bytes_on_disk(Path(path)) if "\0" not in str(path) and os.path.exists(path) else 0
    assert grown < size + MEMORY
