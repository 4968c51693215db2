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
            ours = (
                type(theirs)(theirs.config)
                if "text" in name
                else type(theirs).from_config(dict(theirs.config))
            )
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
    save_file(
        {n.replace("transformer.text_model.", "transformer."): t for n, t in tensors.items()}, path
    )
    state = load(path)["text_encoder"].state_dict()
    want = load(wide("sd1"))["text_encoder"].state_dict()
    assert all(torch.equal(state[n], want[n]) for n in want)


SCALAR, VECTOR = torch.tensor(3.0), torch.zeros(7)
LEFTOVERS = {
    "first_stage_model.model_ema.decoderconv_inweight": VECTOR,
    "first_stage_model.model_ema.num_updates": torch.tensor(7, dtype=torch.uint64),
    "first_stage_model.loss.logvar": SCALAR,
    "first_stage_model.loss.discriminator.main.0.weight": VECTOR,
    "first_stage_model.loss.perceptual_loss.net.slice1.0.weight": VECTOR,
    "epoch": torch.tensor(6),
    "global_step": torch.tensor(470000),
    "step": torch.tensor(1),
    "model.alphas_cumprod": VECTOR,
    "model.diffusion_model.betas": VECTOR,
    "posterior_variance": VECTOR,
    "model.sqrt_recipm1_alphas_cumprod": VECTOR,
    "denoiser.sigmas": VECTOR,
    "denoiser.log_sigmas": VECTOR,
    "scaled_fp8": torch.zeros(0).to(torch.float8_e4m3fn),
    "optimizer_states.0.exp_avg": VECTOR,
    "lr_schedulers.0.base_lr": SCALAR,
    "embedding_manager.embedder.transformer.text_model.embeddings.position_ids": VECTOR,
    "embedding_manager.string_to_param_dict.*": VECTOR,
}
TEXT_LEFTOVERS = {
    "sd1": {
        "cond_stage_model.transformer.vision_model.encoder.layers.0.mlp.fc1.weight": VECTOR,
        "cond_stage_model.transformer.visual_projection.weight": VECTOR,
        "cond_stage_model.transformer.text_projection.weight": VECTOR,
        "cond_stage_model.transformer.logit_scale": SCALAR,
        "cond_stage_model.transformer.text_model.embeddings.position_ids": VECTOR,
        "cond_stage_model.transformer.embeddings.position_ids": VECTOR,
    },
    "sd2": {
        "cond_stage_model.model.visual.conv1.weight": VECTOR,
        "cond_stage_model.model.attn_mask": VECTOR,
        "cond_stage_model.model.text_projection.weight": VECTOR,
        "cond_stage_model.model.transformer.text_model.embeddings.position_ids": VECTOR,
    },
    "sdxl": {
        "conditioner.embedders.0.transformer.text_projection.weight": VECTOR,
        "conditioner.embedders.0.text_projection": VECTOR,
        "conditioner.embedders.0.logit_scale": SCALAR,
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": VECTOR,
        "conditioner.embedders.0.transformer.vision_model.embeddings.class_embedding": VECTOR,
        "conditioner.embedders.1.model.logit_scale": SCALAR,
        "conditioner.embedders.1.model.logit_bias": SCALAR,
        "conditioner.embedders.1.model.attn_mask": VECTOR,
        "conditioner.embedders.1.model.visual.proj": VECTOR,
        "conditioner.embedders.1.model.text_projection.weight": VECTOR,  # beside text_projection
        "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids": VECTOR,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_published_files_hold_besides(family, wide, single, tmp_path):
    extra = LEFTOVERS | TEXT_LEFTOVERS[family]
    path = write_original(wide(family), _beside_tokenizer(tmp_path), family, extra=extra)
    found, plain = resolve(path), resolve(single(family))
    for name in models_of(plain):
        assert found.config(name) == plain.config(name)
        more = set(found.tensors(name)) - set(plain.tensors(name))
        assert all(n.endswith("position_ids") for n in more)
    load(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("control_model.input_blocks.0.0.weight", "those of a ControlNet, which is not supported"),
        ("lora_unet_mid_block.lora_down.weight", "those of a LoRA"),
        ("depth_model.model.scratch.layer1_rn.weight", "those of depth-to-image"),
        ("noise_augmentor.data_mean", "those of unCLIP"),
        ("edm_vpred.sigma_max", "those of CosXL"),
        ("first_stage_model.quantize.embedding.weight", "quantize.embedding.weight'$"),
        ("model.diffusion_model.more.weight", "'model.diffusion_model.more.weight'$"),
        ("cond_stage_model.roberta.embeddings.weight", "'cond_stage_model.roberta"),
    ],
)
def test_what_another_kind_of_model_needs_is_refused_by_name(name, message, wide, tmp_path):
    path = write_original(wide("sd1"), tmp_path / "a.safetensors", "sd1", extra={name: VECTOR})
    with pytest.raises(CheckpointError, match=f"1 tensors belong to no part .*{message}"):
        resolve(path)


def test_the_layers_of_gligen_are_refused_by_name(wide, tmp_path):
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.fuser.linear.weight"
    path = write_original(wide("sd1"), _beside_tokenizer(tmp_path), "sd1", extra={name: VECTOR})
    with pytest.raises(CheckpointError, match=r"1 extra: .*fuser.linear.weight' .as of GLIGEN, wh"):
        load(path)


def test_a_moving_average_alone_is_refused_in_words(wide, tmp_path):
    path = write_original(wide("sd1"), tmp_path / "a.safetensors", "sd1")
    unet = "model.diffusion_model."
    tensors = {
        n.replace(".", "").replace("modeld", "model_ema.d", 1) if n.startswith(unet) else n: t
        for n, t in load_file(path).items()
    }
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"only the moving average of training .model_ema"):
        resolve(path)


def test_the_projection_as_a_linear_layer(wide, single, tmp_path):
    """`text_projection.weight` [out, in] in place of OpenCLIP's text_projection [in, out]."""
    path = write_original(wide("sdxl"), _beside_tokenizer(tmp_path), "sdxl")
    tensors = load_file(path)
    old = "conditioner.embedders.1.model.text_projection"
    tensors[f"{old}.weight"] = tensors.pop(old).T.contiguous()
    save_file(tensors, path)
    mine, want = (load(p)["text_encoder_2"].state_dict() for p in (path, single("sdxl")))
    assert all(torch.equal(mine[n], want[n]) for n in want)


def test_attention_of_the_autoencoder_under_diffusers_names(wide, single, tmp_path):
    path = write_original(wide("sd1"), _beside_tokenizer(tmp_path), "sd1")
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    tensors = {}
    for name, tensor in load_file(path).items():
        for before, after in new.items():
            name = name.replace(f".mid.attn_1.{before}.", f".mid.attn_1.{after}.")
        tensors[name] = (
            tensor[:, :, 0, 0].contiguous()
            if ".to_" in name and ("first_stage" in name and tensor.dim() == 4)
            else tensor
        )
    assert sum(".attn_1.to_" in n for n in tensors) == 16
    save_file(tensors, path)
    mine, want = (load(p)["vae"].state_dict() for p in (path, single("sd1")))
    assert all(torch.equal(mine[n], want[n]) for n in want)


@pytest.mark.parametrize(
    ("step", "prediction"),
    [
        (torch.tensor([875000]), "epsilon"),
        (torch.tensor(875000, dtype=torch.uint32), "epsilon"),
        (torch.tensor(875000.0), "epsilon"),
        (torch.tensor(float("nan")), "v_prediction"),
        (torch.tensor(float("inf")), "v_prediction"),
        (torch.tensor(1j), "v_prediction"),
        (torch.tensor([875000, 1]), "v_prediction"),
        (torch.tensor([], dtype=torch.int64), "v_prediction"),
    ],
    ids=str,
)
def test_training_steps_of_any_type(step, prediction, wide, tmp_path):
    extra = {"global_step": step}
    path = write_original(wide("sd2"), tmp_path / "a.safetensors", "sd2", extra=extra)
    assert resolve(path).config("scheduler")["prediction_type"] == prediction


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
