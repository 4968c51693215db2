"""Damaged checkpoints of Kandinsky 2.2's decoder."""

from __future__ import annotations

import torch
from damage import case, edit_json, edit_tensors

from pyengine.errors import ConfigError

MOVQ = "movq/diffusion_pytorch_model.safetensors"


@case("unknown keys 'flux'", base="kandinsky_folder", error=ConfigError)
def kandinsky_with_an_unknown_key(folder):
    edit_json(folder / "movq/config.json", lambda d: d.update(flux=1))


@case("vq_embed_dim is 5, expected latent_channels 4", base="kandinsky_folder", error=ConfigError)
def kandinsky_whose_codes_are_no_latents(folder):
    edit_json(folder / "movq/config.json", lambda d: d.update(vq_embed_dim=5))


@case("encoder_hid_dim is 1000000000", base="kandinsky_folder", error=ConfigError)
def kandinsky_of_embeddings_wider_than_memory(folder):
    edit_json(folder / "unet/config.json", lambda d: d.update(encoder_hid_dim=10**9))


@case("num_vq_embeddings", base="kandinsky_folder", error=ConfigError)
def kandinsky_of_a_codebook_wider_than_memory(folder):
    edit_json(folder / "movq/config.json", lambda d: d.update(num_vq_embeddings=10**12))


@case("missing: 'encoder_hid_proj", base="kandinsky_folder")
def kandinsky_without_its_projection(folder):
    edit_tensors(folder, lambda t: t.pop("encoder_hid_proj.image_embeds.weight"))


@case("misshapen.*'add_embedding.image_proj.weight' is", base="kandinsky_folder")
def kandinsky_of_other_embeddings(folder):
    edit_tensors(folder, lambda t: t.update({"add_embedding.image_proj.weight": torch.zeros(8, 8)}))


@case("missing: 'post_quant_conv.bias'", base="kandinsky_folder")
def kandinsky_whose_movq_lacks_a_tensor(folder):
    edit_tensors(folder, lambda t: t.pop("post_quant_conv.bias"), MOVQ)


@case("KandinskyV22Pipeline needs movq too", base="kandinsky_folder")
def kandinsky_without_an_autoencoder(folder):
    edit_json(folder / "model_index.json", lambda d: d.pop("movq"))


@case("would run code", base="kandinsky_folder", error=ConfigError)
def kandinsky_with_code(folder):
    edit_json(folder / "movq/config.json", lambda d: d.update(auto_map={"AutoModel": "evil.M"}))
