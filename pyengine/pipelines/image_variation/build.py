"""From a checkpoint to a pipeline of variations of pictures."""

from typing import Any

from ...clip_pictures import ClipPictureConfig
from ..kandinsky.build import check_pictures
from ..reading import Load
from ..stable_diffusion.parts import check_configs
from .parts import VariationParts


def build(load: Load) -> Any:
    """Reads every config and compares them with one another before any tensor is read."""
    checkpoint = load.checkpoint
    configs, sources = load.configs(("unet", "vae", "image_encoder"))
    processor = ClipPictureConfig.from_dict(
        checkpoint.config("feature_extractor"), checkpoint.where("feature_extractor")
    )
    load.compare(check_pictures, configs["image_encoder"], processor, "feature_extractor")
    check_configs(configs, load.source, load.name, checkpoint.options)
    scheduler_config = checkpoint.config("scheduler")
    defaults = load.defaults()
    models = {
        name: load.network(
            name, configs[name], source, name == "vae" and configs[name].force_upcast
        )
        for name, source in sources.items()
    }
    checkpoint.hold(sources)
    return load.pipeline_class(
        VariationParts(
            unet=models["unet"],
            vae=models["vae"],
            encoders=(),
            tokenizers=(),
            image_encoder=models["image_encoder"],
            feature_extractor=processor,
            scheduler_config=scheduler_config,
            pipeline_class=load.name,
            options=checkpoint.options,
            source=load.source,
            defaults=defaults,
            checkpoint=checkpoint,
            scheduler=load.scheduler,
        )
    )
