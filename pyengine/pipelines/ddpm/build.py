"""From a checkpoint to a pipeline of pixel diffusion."""

from typing import Any

from ...errors import ConfigError, RequestError
from ...models import UNet2DConfig, UNet2DModel
from ..diffusers_names.making import check_place
from ..reading import Load
from .pipeline import DDIMPipeline, DDPMPipeline, scheduler_of


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    cls = load.wanted or (DDIMPipeline if load.kind == "DDIMPipeline" else DDPMPipeline)
    given = {name: _check_given(name, part, load.kind) for name, part in load.given.items()}
    check_place(given, load.device, load.dtype)
    configs, sources = load.configs([] if given else ["unet"], checkpoint.where)
    config = given["unet"].config if given else configs["unet"]
    load.compare(check_channels, config)
    keys = checkpoint.config("scheduler")
    # Reads the scheduler's config now, so that a bad one is refused when the model is loaded.
    scheduler = scheduler_of(cls, keys, load.scheduler)
    defaults = load.defaults()
    unet = given["unet"] if given else load.network("unet", config, sources["unet"])
    checkpoint.hold(sources)
    return cls(unet, checkpoint, load.source, defaults, scheduler, tuple(given))


def _check_given(name: str, part: Any, kind: str) -> UNet2DModel:
    if name != "unet":
        raise RequestError(f"{name}: expected none for a {kind}, which has none")
    part = getattr(part, "_orig_mod", part)  # what torch.compile wrapped
    if not isinstance(part, UNet2DModel):
        raise RequestError(
            "unet: expected pyengine's UNet2DModel (pyengine.models.UNet2DModel.from_pretrained"
            f"(folder) gives one), given {type(part).__module__.partition('.')[0]}'s"
            f" {type(part).__name__}"
        )
    return part


def check_channels(config: UNet2DConfig) -> None:
    """Raises ConfigError where a network does not denoise pictures."""
    colours, out = config.in_channels, config.out_channels
    if colours not in (1, 3) or out not in (colours, 2 * colours):
        raise ConfigError(
            f"unet: in_channels {colours}, out_channels {out}: expected 1 or 3 channels in, and as"
            " many out, or twice as many, which say something of the variance"
        )
