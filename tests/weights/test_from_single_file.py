"""from_single_file: what names a file, which configs it gets, and saving it as a folder."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import torch

import pyengine
from pyengine.errors import CheckpointError, RequestError
from pyengine.pipelines.diffusers_names.single import read_original
from pyengine.weights import hub

CALL = {"num_inference_steps": 2, "output_type": "np", "seed": 3, "height": 32, "width": 32}
CLASSES = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
}


def draw(pipe):
    return pipe("a red heart", **CALL).images


@pytest.mark.parametrize("family", CLASSES)
def test_a_file_with_a_folders_configs_is_the_folder(family, wide, single, tmp_path):
    file = shutil.copy(single(family), tmp_path / "alone.safetensors")  # no tokenizer beside it
    cls = getattr(pyengine, CLASSES[family])
    pipe = cls.from_single_file(file, config=wide(family), torch_dtype=torch.float32, device="cpu")
    assert type(pipe) is cls
    assert np.array_equal(draw(pipe), draw(pyengine.from_pretrained(wide(family), device="cpu")))
    general = pyengine.DiffusionPipeline.from_single_file(file, config=str(wide(family)))
    assert type(general) is cls


@pytest.mark.parametrize("family", CLASSES)
def test_a_file_saved_is_a_folder_for_both(family, single, tmp_path):
    pipe = pyengine.from_pretrained(single(family), device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert np.array_equal(draw(again), draw(pipe))
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    call = {k: v for k, v in CALL.items() if k != "seed"}
    expected = theirs("a red heart", generator=torch.Generator().manual_seed(3), **call).images
    assert abs(draw(pipe) - expected).max() < 1e-3


def test_configs_that_do_not_fit(wide, single, tmp_path):
    with pytest.raises(CheckpointError, match=r"config: expected one of a StableDiffusionPipeline"):
        pyengine.StableDiffusionPipeline.from_single_file(single("sd1"), config=wide("sdxl"))
    with pytest.raises(CheckpointError, match="not those of the model that the config describes"):
        pyengine.StableDiffusionPipeline.from_single_file(single("sd1"), config=wide("sd2"))
    with pytest.raises(CheckpointError, match=r"config: expected a folder .* hf download"):
        pyengine.StableDiffusionPipeline.from_single_file(single("sd1"), config="org/none")
    with pytest.raises(CheckpointError, match="config is for single files"):
        pyengine.from_pretrained(wide("sd1"), config=wide("sd1"))


def test_the_class_must_fit(single):
    with pytest.raises(CheckpointError, match="StableDiffusionXLPipeline cannot draw with"):
        pyengine.StableDiffusionXLPipeline.from_single_file(single("sd1"))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('  params:\n    parameterization: "v"\n    linear_start: 0.00085\n', "v_prediction"),
        ("model:\n  params:\n    linear_end: 0.0120\n    timesteps: 1000\n", "epsilon"),
        ("    parameterization: eps # noise\n", "epsilon"),
        ("scaling_config:\n  target: sgm.x.VScalingWithEDMcNoise\n", "v_prediction"),
    ],
)
def test_original_configs(tmp_path, single, text, kind):
    (tmp_path / "x.yaml").write_text(text)
    assert read_original(tmp_path / "x.yaml") == kind
    pipe = pyengine.StableDiffusionPipeline.from_single_file(
        single("sd1"), original_config=tmp_path / "x.yaml", device="cpu"
    )
    assert pipe.scheduler.config.prediction_type == kind


def test_original_configs_that_are_refused(tmp_path, single):
    (tmp_path / "x.yaml").write_text("  linear_start: 0.0015\n")
    with pytest.raises(RequestError, match="original_config: expected Stable Diffusion's linear_s"):
        pyengine.StableDiffusionPipeline.from_single_file(
            single("sd1"), original_config=tmp_path / "x.yaml"
        )
    with pytest.raises(RequestError, match="original_config: expected the path of a YAML file"):
        pyengine.StableDiffusionPipeline.from_single_file(
            single("sd1"), original_config="https://example.org/x.yaml"
        )


@pytest.mark.parametrize(
    ("address", "want"),
    [
        ("https://huggingface.co/org/repo/blob/main/x.safetensors", ("org/repo", "x", "main")),
        ("https://huggingface.co/org/repo/resolve/v2/a/x.safetensors", ("org/repo", "a/x", "v2")),
        ("hf.co/org/repo/x.safetensors", ("org/repo", "x", None)),
        ("org/repo/x.safetensors", ("org/repo", "x", None)),
    ],
)
def test_addresses_of_the_hub(monkeypatch, single, address, want):
    import huggingface_hub

    asked = []

    def give(repo, name, **options):
        asked.append((repo, name, options["revision"], options["token"]))
        return str(single("sd1"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    pyengine.StableDiffusionPipeline.from_single_file(address, token="t", device="cpu")
    repo, name, revision = want
    assert asked == [(repo, f"{name}.safetensors", revision, "t")]


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        ("https://example.org/a/b/x.safetensors", CheckpointError, "no such file, and no file on"),
        ("x.safetensors", CheckpointError, "no such file, and no file on"),
        ("org/repo/x.ckpt", CheckpointError, "x.ckpt"),
        ("org/repo/x.bin", CheckpointError, "x.bin"),
        ("org/repo/x.gguf", CheckpointError, "is no .safetensors file"),
        ("", RequestError, "path: expected"),
        (None, RequestError, "path: expected"),
    ],
)
def test_addresses_that_are_none(address, error, text, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(error, match=text):
        pyengine.StableDiffusionPipeline.from_single_file(address)


def test_a_folder_is_no_file(wide):
    with pytest.raises(RequestError, match=r"given a folder, .*; use from_pretrained"):
        pyengine.StableDiffusionPipeline.from_single_file(wide("sd1"))


def test_what_the_hub_does_not_give(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise OSError("404")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(CheckpointError, match=r"org/repo: .*did not give 'x.safetensors'.*404"):
        hub.download_file("org/repo", "x.safetensors")


def test_written_files_are_read_back(tmp_path, single):
    from safetensors.torch import load_file

    from pyengine.weights import resolve
    from pyengine.weights.write import write_tensors

    source = resolve(single("sd1")).tensors("vae")
    write_tensors(tmp_path / "a.safetensors", source)
    write_tensors(tmp_path / "b.safetensors", source, torch.bfloat16)
    whole, half = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert whole.keys() == half.keys() == set(source.keys())
    for name, tensor in whole.items():
        assert torch.equal(tensor, source.read(name))
        assert torch.equal(half[name], tensor.to(torch.bfloat16))
    head = (tmp_path / "a.safetensors").read_bytes()
    size = int.from_bytes(head[:8], "little")
    assert json.loads(head[8 : 8 + size])["__metadata__"] == {"format": "pt"}
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "a.safetensors", source)
