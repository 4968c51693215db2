"""From a checkpoint to DiT's pipeline."""

import warnings
from typing import Any

from ...diffusion.latents import unapplied
from ...errors import ConfigError
from ...weights.text import show
from ..diffusers_names.schedulers import choose
from ..reading import Load


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("transformer", "vae"), checkpoint.where)
    load.compare(check_fits, configs["transformer"], configs["vae"])
    names = read_names(
        getattr(checkpoint, "data", {}).get("id2label"),
        load.source,
        configs["transformer"].num_embeds_ada_norm,
    )
    if left_out := unapplied(configs["vae"], per_channel=False):
        warnings.warn(f"{load.source}: vae/config.json: {left_out}", stacklevel=2)
    scheduler = choose(None, checkpoint.config("scheduler"), load.kind)
    defaults = load.defaults()
    models = {
        name: load.network(
            name, configs[name], source, name == "vae" and configs[name].force_upcast
        )
        for name, source in sources.items()
    }
    checkpoint.hold(sources)
    return load.pipeline_class(models, checkpoint, load.source, defaults, scheduler, names)


def check_fits(transformer: Any, vae: Any) -> None:
    """Raises ConfigError where a transformer and an autoencoder do not go together."""
    latent, out = vae.latent_channels, transformer.outputs
    if transformer.in_channels != latent or out not in (latent, 2 * latent):
        raise ConfigError(
            f"transformer: in_channels {transformer.in_channels}, out_channels {out} do not fit an"
            f" autoencoder of {latent} latent channels: expected {latent}, and as many or twice as"
            " many"
        )
    if vae.out_channels != 3:
        raise ConfigError(f"vae: expected pictures of 3 channels, found {vae.out_channels}")


def read_names(found: object, source: str, classes: int) -> dict[int, str]:
    """{class: its names, with commas between} from model_index.json's id2label.

    Raises ConfigError.
    """
    where = f"{source}: model_index.json: id2label"
    if found is None:
        return {}
    if not isinstance(found, dict) or len(found) > classes:
        raise ConfigError(
            f"{where}: expected names of at most {classes} classes, found {show(found)}"
        )
    names = {}
    for key, name in found.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 8 else -1
        if not 0 <= number < classes or not isinstance(name, str):
            raise ConfigError(
                f"{where}: expected names by class, 0 to {classes - 1}, found {show(key)}:"
                f" {show(name)}"
            )
        names[number] = name
    return names
