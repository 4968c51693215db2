"""The VQ-VAE of a shipped model, for models that name it instead of holding one."""

from dataclasses import replace
from typing import Literal

from ..models import VQModel
from ..weights import resolve
from .loading import shipped_folder
from .reading import Load


def load_shipped_vqvae(name: Literal["emoji-ar"], load: Load) -> VQModel:
    """The VQ-VAE of the shipped model `name`, on load's device in its dtype.

    load: of the checkpoint whose config names it.
    """
    checkpoint = resolve(shipped_folder(name))
    own = replace(load, checkpoint=checkpoint, source=name, weights=None, wanted=None, given={})
    configs, sources = own.configs(("vqvae",))
    model: VQModel = own.network("vqvae", configs["vqvae"], sources["vqvae"])
    return model
