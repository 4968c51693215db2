"""EncoderUNetModel against a plain torch reading of guided-diffusion's on the same weights."""

import json

import adm_classifier
import pytest
import torch
from parity import LIMIT, noise, relative_l2

from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import EncoderUNetConfig, EncoderUNetModel, differentiable

VARIANTS = {
    "adm": {},
    "defaults": {"pool": "adaptive", "num_head_channels": -1, "use_scale_shift_norm": False,
                 "resblock_updown": False},
    "heads": {"num_head_channels": -1, "num_heads": 4, "pool": "adaptive"},
    "new_order": {"use_new_attention_order": True},
    "means": {"conv_resample": False, "resblock_updown": False, "pool": "spatial"},
    "spatial_v2": {"pool": "spatial_v2", "channel_mult": [1, 1, 2], "num_res_blocks": 2},
    "odd": {"image_size": 15, "pool": "adaptive", "attention_resolutions": [1, 2]},
    "latents": {"in_channels": 4, "image_size": 8, "out_channels": 3},
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def pair(request, tmp_path):
    theirs = adm_classifier.write(tmp_path, **VARIANTS[request.param])
    return theirs, EncoderUNetModel.from_pretrained(tmp_path)


def given(ours, n=3):
    c = ours.config
    return noise(n, c.in_channels, c.image_size, c.image_size), torch.tensor([999, 417, 0][:n])


def log_p(logits):
    return logits.log_softmax(dim=-1)[torch.arange(len(logits)), torch.arange(len(logits))]


def test_logits_and_gradients(pair):
    theirs, ours = pair
    x, t = given(ours)
    want = theirs.double()(x.double(), t).float()
    got = ours(x, t)
    assert relative_l2(got, want) < LIMIT
    for k in range(len(x)):
        assert torch.equal(ours(x[k : k + 1], t[k : k + 1]), got[k : k + 1])
    leaf = x.double().requires_grad_()
    (want,) = torch.autograd.grad(log_p(theirs(leaf, t)).sum(), leaf)
    leaf = x.clone().requires_grad_()
    with differentiable():
        (got,) = torch.autograd.grad(log_p(ours(leaf, t)).sum(), leaf)
    want = want.float() / want.norm().float() * 50
    assert relative_l2(got / got.norm() * 50, want) < LIMIT


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channel_mult": []}, "channel_mult is empty"),
        ({"channel_mult": [1, 1.3]}, "channel_mult\\[1\\]: 41 channels"),
        ({"num_head_channels": 24}, "heads of another width"),
        ({"num_head_channels": -1}, "num_head_channels: expected the width"),
        ({"num_head_channels": 0}, "expected one of them to be positive"),
        ({"image_size": 18, "channel_mult": [1, 1, 1]}, "cannot be halved 2 times"),
        ({"image_size": 10**9}, "image_size is 1000000000"),
        ({"num_res_blocks": 10**6}, "num_res_blocks is 1000000"),
        ({"dims": 3}, "dims is 3"),
        ({"pool": "max"}, "pool"),
        ({"classes": 3}, "classes"),
        ({"attention_resolutions": "32,16"}, "attention_resolutions"),
    ],
)
def test_configs_that_are_none(changes, text):
    with pytest.raises(ConfigError, match=text):
        EncoderUNetConfig.from_dict({**adm_classifier.CONFIG, **changes})


def test_what_acts_in_training_is_no_fault():
    EncoderUNetConfig.from_dict(
        {**adm_classifier.CONFIG, "dropout": 0.1, "use_fp16": True, "dims": 2}
    )


def test_files_that_are_none(tmp_path):
    adm_classifier.write(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "out_channels": 11}))
    with pytest.raises(CheckpointError, match=r"misshapen: 'out\.2\.c_proj\.bias'"):
        EncoderUNetModel.from_pretrained(tmp_path)
    path.write_text(json.dumps({**config, "num_res_blocks": 2}))
    with pytest.raises(CheckpointError, match=r"input_blocks\.4\.0"):
        EncoderUNetModel.from_pretrained(tmp_path)


def test_inputs_that_do_not_fit(tmp_path):
    adm_classifier.write(tmp_path)
    ours = EncoderUNetModel.from_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"x: expected \[N, 3, 16, 16\], got \[1, 3, 8, 8\]"):
        ours(noise(1, 3, 8, 8), 3)
    with pytest.raises(RequestError, match=r"timesteps: expected a number or \[1\]"):
        ours(noise(1, 3, 16, 16), torch.tensor([3, 4]))
