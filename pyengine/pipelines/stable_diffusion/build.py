"""From a checkpoint to a pipeline of Stable Diffusion or a latent consistency model."""

import warnings
from typing import Any

from ...diffusion.latents import unapplied
from ...errors import RequestError
from ..autoencoders import located
from ..diffusers_names.making import check_part, check_place
from ..reading import Load, read_tokenizer
from .beside import load_beside
from .parts import ENCODERS, Parts, check_configs


def build(load: Load) -> Any:
    """Reads every config and compares them with one another before any tensor is read."""
    cls, checkpoint = load.pipeline_class, load.checkpoint
    networks = load.networks()
    for name in load.given:
        if name.replace("tokenizer", "text_encoder") not in networks:
            raise RequestError(f"{name}: expected none for a {load.kind}, which has none")
    own_vae = {n: located(v, load.device, load.dtype) for n, v in load.given.items() if n == "vae"}
    given = {name: check_part(name, part) for name, part in (load.given | own_vae).items()}
    check_place(given, load.device, load.dtype)
    configs, sources = load.configs(name for name in networks if name not in given)
    configs |= {name: given[name].config for name in networks if name in given}
    tokenizers = {}
    for name in (n for n in ENCODERS if n in networks):
        own = name.replace("text_encoder", "tokenizer")
        tokenizers[own] = given.get(own) or read_tokenizer(checkpoint, name, configs[name])
    check_configs(configs, load.source, load.name, checkpoint.options)
    if left_out := unapplied(configs["vae"], per_channel=not cls.stable_diffusion):
        warnings.warn(f"{load.source}: vae/config.json: {left_out}", stacklevel=2)
    scheduler_config = checkpoint.config("scheduler")
    defaults = load.defaults()
    models = {name: part for name, part in given.items() if name in networks}
    for name, source in sources.items():
        upcast = name == "vae" and configs[name].force_upcast
        models[name] = load.network(name, configs[name], source, upcast)
    checkpoint.hold(sources)
    beside = load_beside(load.beside, models["unet"], models["vae"], load.hub)
    return cls(
        Parts(
            unet=models["unet"],
            vae=models["vae"],
            encoders=tuple(models[name] for name in ENCODERS if name in models),
            tokenizers=tuple(tokenizers.values()),
            scheduler_config=scheduler_config,
            pipeline_class=load.name,
            options=checkpoint.options,
            source=load.source,
            defaults=defaults,
            checkpoint=checkpoint,
            given=tuple(given),
            scheduler=load.scheduler,
            **beside,
        )
    )
