"""Every key of diffusers' model configs is ours too, with the same default: none is left unread."""

from __future__ import annotations

import dataclasses
import inspect

import diffusers
import pytest

from pyengine import models

#: Keys without a field: each provably changes nothing, and why.
WITHOUT_EFFECT = {
    "UNet2DConditionModel": {
        "dropout",  # training
        "upcast_attention",  # asks for a float32 softmax, which ours always is
    },
    # training; the number of learned time embeddings, which are refused
    "UNet2DModel": {"dropout", "num_train_timesteps"},
    # training; of no layer; asks for a float32 softmax, which ours always is
    "DiTTransformer2DModel": {"dropout", "norm_num_groups", "upcast_attention"},
    "UVit2DModel": {"hidden_dropout", "attention_dropout"},  # training
    "PriorTransformer": {"dropout"},  # training
}


@pytest.mark.parametrize(
    "name",
    [
        "AutoencoderKL",
        "UNet2DConditionModel",
        "UNet2DModel",
        "VQModel",
        "UVit2DModel",
        "PriorTransformer",
    ],
)
def test_keys_and_defaults_are_diffusers(name):
    signature = inspect.signature(getattr(diffusers, name).__init__)
    theirs = {n: p.default for n, p in signature.parameters.items() if n != "self"}
    config = getattr(models, name).config_class
    ours = {f.name: f.default for f in dataclasses.fields(config)}
    assert theirs.keys() - ours.keys() == WITHOUT_EFFECT.get(name, set())
    assert config.IGNORED_KEYS & theirs.keys() == WITHOUT_EFFECT.get(name, set())
    for key, default in ours.items():
        if isinstance(default, tuple):
            default = list(default)
        want = list(theirs[key]) if isinstance(theirs[key], tuple | list) else theirs[key]
        if want is not inspect.Parameter.empty:
            assert default == want, key
