"""What is known of the project's own unCLIP."""

from ..common_parts import PRIOR_TRANSFORMER, SCHEDULER
from ..pixel_diffusion.family import NETWORK
from ..registry import Family

_HERE = "pyengine.pipelines.small_prior"

SMALL_PRIOR = Family(
    name="small_prior",
    title="prior and decoder by text: a small unCLIP",
    state="from text, by way of an embedding; emoji-prior, and what `pyengine train prior` makes",
    classes=("SmallPriorPipeline",),
    parts={"prior": PRIOR_TRANSFORMER, "decoder": NETWORK, "scheduler": SCHEDULER},
    data=("autoencoder",),
    pipeline=f"{_HERE}.pipeline:SmallPriorPipeline",
    build=f"{_HERE}.build:build",
    main="decoder",
    tasks={"text": f"{_HERE}.pipeline:SmallPriorPipeline"},
    rehearse=f"{_HERE}.build:rehearse",
    rank=19,
)
