"""Single files in the original layout give the same configs and tensors as the diffusers folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from original_layout import write_original
from safetensors.torch import load_file, save_file
from whole import load

import pyengine
from pyengine.errors import CheckpointError
from pyengine.weights import load_module, resolve

FAMILIES = ("sd1", "sd2", "sdxl")
# What a file cannot show and no model reads, or reads only as a default size of pictures.
NOT_SHOWN = {"sample_size", "projection_dim"}


def models_of(checkpoint) -> list[str]:
    return [n for n in checkpoint.components if n not in ("scheduler",) and "tokenizer" not in n]


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_are_the_folders(family, wide, single):
    one, folder = resolve(single(family)), resolve(wide(family))
    assert one.pipeline_class == folder.pipeline_class
    assert sorted(one.components) == sorted(folder.components)
    for name in models_of(one):
        saved = folder.config(name)
        for key, value in one.config(name).items():
            if key not in NOT_SHOWN:
                assert value == saved[key], (name, key)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_the_folders(family, wide, single):
    one, folder = resolve(single(family)), resolve(wide(family))
    for name in models_of(one):
        ours, theirs = one.tensors(name), folder.tensors(name)
        names = {n.removeprefix("text_model."): n for n in ours}
        assert sorted(names) == sorted(n.removeprefix("text_model.") for n in theirs), name
        for key in theirs:
            mine = names[key.removeprefix("text_model.")]
            want = theirs.read(key)
            assert ours.spec(mine) == (want.dtype, tuple(want.shape)), key
            assert torch.equal(ours.read(mine), want), key


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_loads(family, wide, single):
    parts, same = load(single(family)), load(wide(family))
    assert parts.keys() == same.keys()
    state, want = parts["unet"].state_dict(), same["unet"].state_dict()
    assert all(torch.equal(state[n], want[n]) for n in want)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_diffusers_from_single_file(family, wide, single):
    import diffusers

    cls = getattr(diffusers, resolve(single(family)).pipeline_class)
    path = str(single(family))
    if family == "sd2":  # diffusers drops layer 23 by name, which a tiny tower has not
        path = str(single(family).with_name("no_last_layer.safetensors"))
        tensors = {n: t for n, t in load_file(single(family)).items() if "resblocks.3." not in n}
        save_file(tensors, path)
    pipe = cls.from_single_file(
        path,
        config=str(wide(family)),
        local_files_only=True,
        torch_dtype=torch.float32,
        safety_checker=None,
    )
    checkpoint = resolve(single(family))
    for name in models_of(checkpoint):
        theirs = getattr(pipe, name)
        # diffusers' own module, on the meta device, filled by our reader.
        with torch.device("meta"):
            ours = type(theirs)(theirs.config)if "text" in name else type(theirs).from_config(
                dict(theirs.config))  # fmt: skip
        for buffer_name, buffer in theirs.named_buffers():
            owner, _, leaf = buffer_name.rpartition(".")
            ours.get_submodule(owner)._buffers[leaf] = buffer
        load_module(ours, checkpoint.tensors(name))
        state = theirs.state_dict()
        assert state.keys() == ours.state_dict().keys()
        for key, tensor in ours.state_dict().items():
            assert torch.equal(tensor, state[key]), (name, key)


def test_prediction_type(wide, single, tmp_path):
    assert resolve(single("sd1")).config("scheduler")["prediction_type"] == "epsilon"
    v = resolve(single("sd2"))
    assert v.config("scheduler")["prediction_type"] == "v_prediction"
    told = resolve(single("sd2"), prediction_type="epsilon")
    assert told.config("scheduler")["prediction_type"] == "epsilon"
    assert told.config("unet")["sample_size"] < v.config("unet")["sample_size"]

    step = {"global_step": torch.tensor(875000)}
    base = write_original(wide("sd2"), tmp_path / "base.safetensors", "sd2", extra=step)
    assert resolve(base).config("scheduler")["prediction_type"] == "epsilon"

    says = {"modelspec.prediction_type": "v"}
    file = write_original(wide("sd1"), tmp_path / "v.safetensors", "sd1", metadata=says)
    assert resolve(file).config("scheduler")["prediction_type"] == "v_prediction"

    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    file = write_original(wide("sdxl"), tmp_path / "xl.safetensors", "sdxl", extra=marks)
    scheduler = resolve(file).config("scheduler")
    assert scheduler["prediction_type"] == "v_prediction"
    assert scheduler["rescale_betas_zero_snr"] is True
    with pytest.raises(CheckpointError, match="none of epsilon, v_prediction"):
        resolve(single("sd1"), prediction_type="x0")


def test_schedulers_are_the_published_ones(single):
    assert resolve(single("sd1")).config("scheduler") == {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
    }
    classes = {f: resolve(single(f)).config("scheduler")["_class_name"] for f in FAMILIES}
    assert classes == {
        "sd1": "PNDMScheduler",
        "sd2": "DDIMScheduler",
        "sdxl": "EulerDiscreteScheduler",
    }


def test_leftovers_of_training_are_harmless(wide, tmp_path):
    extra = {
        "model_ema.diffusion_modeltime_embed0weight": torch.zeros(3),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        "betas": torch.zeros(1000),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "cond_stage_model.logit_scale": torch.tensor(1.0),
    }
    load(
        write_original(wide("sd1"), _beside_tokenizer(tmp_path), "sd1", extra=extra)
    )  # does not raise


def test_text_encoder_names_without_text_model(wide, tmp_path):
    path = write_original(wide("sd1"), _beside_tokenizer(tmp_path), "sd1")
    tensors = load_file(path)
    save_file({n.replace("transformer.text_model.", "transformer."): t for n, t in tensors.items()},
              path)  # fmt: skip
    state = load(path)["text_encoder"].state_dict()
    want = load(wide("sd1"))["text_encoder"].state_dict()
    assert all(torch.equal(state[n], want[n]) for n in want)


def test_half_precision_is_kept_or_widened(wide, tmp_path):
    path = write_original(wide("sd1"), _beside_tokenizer(tmp_path), "sd1")
    tensors = {n: t.half() for n, t in load_file(path).items()}
    save_file(tensors, path)
    checkpoint = resolve(path)
    name = "mid_block.attentions.0.to_q.weight"
    name = next(n for n in checkpoint.tensors("vae") if n.endswith(name))
    assert checkpoint.tensors("vae").spec(name)[0] == torch.float16
    assert {p.dtype for p in load(path)["vae"].parameters()} == {torch.float16}


def test_tokenizers(wide, single, tmp_path, monkeypatch):
    xl = resolve(single("sdxl"))
    assert xl.tokenizer_files("tokenizer_2") == xl.tokenizer_files("tokenizer")
    assert xl.tokenizer_pad("tokenizer") is None
    assert xl.tokenizer_pad("tokenizer_2") == "!"
    assert resolve(single("sd2")).tokenizer_pad("tokenizer") == "!"
    tiny.write_tokenizer(single("sdxl").parent / "tokenizer_2", pad_token="!")
    own = resolve(single("sdxl")).tokenizer_files("tokenizer_2")
    assert {p.parent.name for p in own.values()} == {"tokenizer_2"}

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    alone = write_original(wide("sd1"), tmp_path / "alone.safetensors", "sd1")
    with pytest.raises(CheckpointError, match=r"no tokenizer.*vocab\.json.*hf download"):
        resolve(alone).tokenizer_files("tokenizer")
    repo = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    tiny.write_tokenizer(repo / "snapshots" / "abc123")
    files = resolve(alone).tokenizer_files("tokenizer")
    assert files["vocab.json"] == repo / "snapshots" / "abc123" / "vocab.json"


def test_model_hash_of_a_file_is_stable(wide, single, tmp_path):
    again = write_original(wide("sd1"), tmp_path / "b.safetensors", "sd1", metadata={"a": "b"})
    assert resolve(again).model_hash == resolve(single("sd1")).model_hash
    assert len(resolve(again).model_hash) == 64


def test_config_is_json(single):
    for family in FAMILIES:
        checkpoint = resolve(single(family))
        for name in [*models_of(checkpoint), "scheduler"]:
            assert json.loads(json.dumps(checkpoint.config(name))) == checkpoint.config(name)


def _beside_tokenizer(folder):
    tiny.write_tokenizer(folder / "tokenizer")
    return folder / "model.safetensors"


# The tiny folders' schedulers have only the keys that theirs needs, the files' all published ones:
# the samplers named here read none of the others.
@pytest.mark.parametrize(("family", "sampler"), [("sd1", "ddim"), ("sd2", "ddim"), ("sdxl", None)])
def test_the_pipeline_draws_the_same_picture(family, sampler, wide, single):
    def draw(path):
        pipe = pyengine.from_pretrained(path, device="cpu")
        return pipe(
            "a red heart",
            seed=3,
            num_inference_steps=2,
            height=32,
            width=32,
            scheduler=sampler,
            output_type="np",
        ).images

    assert np.array_equal(draw(single(family)), draw(wide(family)))
