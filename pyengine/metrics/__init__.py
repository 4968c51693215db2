"""How good pictures are: distances between sets of them, and how well they fit their texts.

    from pyengine.metrics import FrechetDistance, InceptionV3

    distance = FrechetDistance(InceptionV3("inception.safetensors"))
    distance.update(photographs, real=True)        # uint8 [N, 3, H, W], as often as one likes
    distance.update(drawn, real=False)
    distance.compute()

The way of use is torchmetrics'. What the numbers depend on besides the pictures (the feature
network, how pictures are resized for it, rounding) is the network's, and each names itself:
`distance.features.name`. Only over InceptionV3 with its published weights is a Frechet distance
FID.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip_score import CLIPScore
    from .density import bits_per_dimension
    from .frechet import FrechetDistance, frechet_distance
    from .inception import InceptionV3
    from .kernel import KernelDistance, polynomial_mmd
    from .moments import Moments
    from .neighbours import DensityCoverage, PrecisionRecall

_HOME = {
    "CLIPScore": "clip_score",
    "DensityCoverage": "neighbours",
    "FrechetDistance": "frechet",
    "InceptionV3": "inception",
    "KernelDistance": "kernel",
    "Moments": "moments",
    "PrecisionRecall": "neighbours",
    "bits_per_dimension": "density",
    "frechet_distance": "frechet",
    "polynomial_mmd": "kernel",
}

__all__ = [
    "CLIPScore",
    "DensityCoverage",
    "FrechetDistance",
    "InceptionV3",
    "KernelDistance",
    "Moments",
    "PrecisionRecall",
    "bits_per_dimension",
    "frechet_distance",
    "polynomial_mmd",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pyengine.metrics' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
