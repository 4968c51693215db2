"""AutoencoderTiny against diffusers', and TAEF2's against a plain reading of taesd.py."""

import os
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch
from generators import PlainTiny, randomise
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2
from PIL import Image
from safetensors.torch import save_file

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import AutoencoderTiny

#: TAEF2's two files, where this machine has them.
PUBLISHED = Path(
    os.environ.get(
        "PYENGINE_TAEF2", str(Path(__file__).parents[2].parent / "shared/data/published")
    )
)
SMALL = {
    "encoder_block_out_channels": (12,) * 3,
    "decoder_block_out_channels": (10,) * 3,
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (1, 0, 2),
}
VARIANTS = {
    "small": SMALL,
    "taesd": {},
    "sixteen latents": {**SMALL, "latent_channels": 16, "scaling_factor": 2.0},
    "one level": {
        "encoder_block_out_channels": (5,), "decoder_block_out_channels": (7,),
        "num_encoder_blocks": (1,), "num_decoder_blocks": (1,), "in_channels": 4,
        "out_channels": 1,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    theirs = tiny.randomise(diffusers.AutoencoderTiny(**VARIANTS[request.param]), 3)
    return load_pair(theirs, AutoencoderTiny, tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(("n", "height", "width"), [(1, 16, 16), (2, 21, 13), (3, 8, 1)])
@torch.no_grad()
def test_against_diffusers(pair, n, height, width):
    theirs, ours = pair
    c = ours.config
    x = noise(n, c.in_channels, height, width)
    want = theirs.double().encode(x.double()).latents
    got = ours.encode(x).latents
    assert relative_l2(got.double(), want) < LIMIT
    assert ours.encode(x, return_dict=False)[0].equal(got)
    z = 3 * noise(n, c.latent_channels, height // c.downscale + 1, width // c.downscale + 1)
    want = theirs.decode(z.double()).sample
    theirs.float()
    got = ours.decode(z).sample
    assert got.shape[2] == z.shape[2] * c.downscale
    assert relative_l2(got.double(), want) < LIMIT


def test_same_bits_alone_in_a_batch_and_on_any_threads(pair, use_threads):
    _, ours = pair
    c = ours.config
    x, z = noise(3, c.in_channels, 64, 64), noise(3, c.latent_channels, 40, 33)
    use_threads(1)
    latents, pictures = ours.encode(x).latents, ours.decode(z).sample
    for threads in (1, 2, 3):
        use_threads(threads)
        assert torch.equal(ours.encode(x).latents, latents)
        assert torch.equal(torch.cat([ours.decode(row[None]).sample for row in z]), pictures)
        assert torch.equal(torch.cat([ours.encode(row[None]).latents for row in x]), latents)


def test_every_parameter_matters(tmp_path):
    config = {**SMALL, "use_midblock_gn": True}
    ours = AutoencoderTiny.from_config(config)
    ours.load_state_dict(
        {n: p.new_empty(p.shape, device="cpu") for n, p in ours.state_dict().items()}, assign=True
    )
    randomise(ours, 0)
    x, z = noise(1, 3, 16, 8), noise(1, 4, 3, 4)
    assert idle_parameters(ours, lambda: (ours.encode(x).latents, ours.decode(z).sample)) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs = tiny.randomise(diffusers.AutoencoderTiny(**SMALL), 3)
    theirs, ours = load_pair(theirs, AutoencoderTiny, tmp_path, dtype=dtype)
    z = noise(2, 4, 3, 4)
    got = ours.decode(z).sample
    assert got.dtype == dtype
    limit = 2e-2 if dtype == torch.bfloat16 else 2e-3
    assert relative_l2(got.float(), theirs.decode(z).sample) < limit


def test_keys_and_defaults_are_diffusers():
    import inspect

    theirs = inspect.signature(diffusers.AutoencoderTiny.__init__).parameters
    default = AutoencoderTiny.from_config({}).config
    for name, parameter in theirs.items():
        if name != "self":
            assert getattr(default, name) == parameter.default, name


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"act_fn": "silu"}, "act_fn is 'silu', expected 'relu'"),
        ({"num_encoder_blocks": [1, 3]}, "encoder_block_out_channels has 4 items and num_encoder"),
        ({"decoder_block_out_channels": [64, 64, 64, 32]}, "expected one width, found"),
        ({"upsampling_scaling_factor": 3}, "upsampling_scaling_factor is 3"),
        ({"num_decoder_blocks": []}, "at least one"),
        ({"num_decoder_blocks": [3], "decoder_block_out_channels": [64]}, "expected as many items"),
        ({"num_decoder_blocks": [100000, 3, 3, 1]}, "num_decoder_blocks"),
        ({"shape": "square"}, "unknown keys 'shape'"),
    ],
)
def test_wrong_configs(change, text):
    with pytest.raises(ConfigError, match=text):
        AutoencoderTiny.from_config(change)


# --- the publisher's files ------------------------------------------------------------------------


def files(folder, pooled, seed=0, width=12, latents=5):
    """(the plain model, encoder's file, decoder's) of widths like TAEF2's but small."""
    plain = randomise(PlainTiny(width, latents, pooled), seed)
    paths = []
    for half in ("encoder", "decoder"):
        paths.append(folder / f"tae_{half}.safetensors")
        save_file(getattr(plain, half).state_dict(), paths[-1])
    return plain, *paths


@pytest.mark.parametrize("pooled", [False, True])
@torch.no_grad()
def test_files_of_one_half_each(pooled, tmp_path):
    plain, encoder, decoder = files(tmp_path, pooled)
    ours = AutoencoderTiny.from_files(encoder, decoder)
    c = ours.config
    assert (c.use_midblock_gn, c.latent_channels, c.downscale) == (pooled, 5, 8)
    x, z = noise(2, 3, 24, 40), 3 * noise(2, 5, 3, 5)
    want = plain.double().encoder((x.double() + 1) / 2)
    assert relative_l2(ours.encode(x).latents.double(), want) < LIMIT
    want = plain.decoder(z.double()) * 2 - 1
    plain.float()
    got = ours.decode(z).sample
    assert relative_l2(got.double(), want) < LIMIT
    both = tmp_path / "tae.safetensors"
    tensors = {f"encoder.layers.{n}": t for n, t in plain.encoder.state_dict().items()}
    for name, tensor in plain.decoder.state_dict().items():
        number, _, rest = name.partition(".")
        tensors[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
    save_file(tensors, both)
    for one in (AutoencoderTiny.from_files(both), AutoencoderTiny.from_files(decoder=both)):
        assert one.config == c
        assert one.decode(z).sample.equal(got)
        assert one.encode(x).latents.equal(ours.encode(x).latents)
    half = AutoencoderTiny.from_files(decoder=decoder)
    assert half.decode(z).sample.equal(got)
    with pytest.raises(RequestError, match="expected a model with an encoder"):
        half.encode(x)
    with pytest.raises(RequestError, match="expected a model with a decoder"):
        AutoencoderTiny.from_files(encoder).decode(z)
    (tmp_path / "folder").mkdir()
    save_file(tensors, tmp_path / "folder/diffusion_pytorch_model.safetensors")
    import json

    widths = {f"{half}_block_out_channels": [12] * 4 for half in ("encoder", "decoder")}
    config = {"_class_name": "AutoencoderTiny", "latent_channels": 5, **widths}
    config["use_midblock_gn"] = pooled
    (tmp_path / "folder/config.json").write_text(json.dumps(config))
    assert AutoencoderTiny.from_pretrained(tmp_path / "folder").decode(z).sample.equal(got)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda t: t.pop("8.conv.2.bias"), CheckpointError, "missing: 'layers.7.conv.2.bias'"),
        (lambda t: t.update({"99.weight": torch.zeros(3, 12, 3, 3)}), CheckpointError, "missing"),
        (lambda t: t.update({"1.weight": torch.zeros(12, 5, 5, 5)}), CheckpointError, "misshapen"),
        (lambda t: t.update({"1.weight": torch.tensor(1.0)}), ConfigError, "block_out_channels"),
        (lambda t: t.update({"magic": torch.zeros(2)}), CheckpointError, "extra: 'magic'"),
        (lambda t: t.clear() or t.update(x=torch.zeros(1)), ConfigError, "block_out_channels"),
    ],
)
def test_damaged_files(change, error, text, tmp_path):
    plain, _, decoder = files(tmp_path, True)
    tensors = dict(plain.decoder.state_dict())
    change(tensors)
    save_file(tensors, decoder)
    with pytest.raises(error, match=text):
        AutoencoderTiny.from_files(decoder=decoder)


def test_wrong_places(tmp_path):
    with pytest.raises(RequestError, match="given neither"):
        AutoencoderTiny.from_files()
    with pytest.raises(CheckpointError, match="no such file"):
        AutoencoderTiny.from_files(tmp_path / "none.safetensors")
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="can run code"):
        AutoencoderTiny.from_files(tmp_path / "x.pt")


@pytest.mark.skipif(
    not (PUBLISHED / "taef2_decoder.safetensors").is_file(),
    reason="no published weights: PYENGINE_TAEF2 names no folder with taef2_*.safetensors",
)
def test_taef2_and_a_photograph():
    """Measured: 30.7 dB at its own 512x600 pixels, whose film grain is most of what is lost."""
    import matplotlib

    ours = AutoencoderTiny.from_files(
        PUBLISHED / "taef2_encoder.safetensors", PUBLISHED / "taef2_decoder.safetensors"
    )
    assert (ours.config.latent_channels, ours.config.use_midblock_gn) == (32, True)
    path = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    for side, least in ((512, 30.5), (768, 31.0)):
        photo = Image.open(path).convert("RGB").resize((side, side * 600 // 512), Image.LANCZOS)
        x = torch.from_numpy(np.asarray(photo) / 127.5 - 1).permute(2, 0, 1)[None].float()
        x = x[:, :, : x.shape[2] // 8 * 8]
        made = ours.decode(ours.encode(x).latents).sample.clamp(-1, 1)
        assert 10 * torch.log10(4 / (made - x).square().mean()) > least
