"""A family of one's own: a checkpoint's folder of a new kind, loaded as any other.

python examples/own_family.py picture.png
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import pyengine
from pyengine.layers import Linear
from pyengine.models.base import Model
from pyengine.pipelines import Family, Part, PipelineOutput, Report, register
from pyengine.pipelines.base import Pipeline
from pyengine.pipelines.reading import Load
from pyengine.weights import read_config

SIDE = 8


@dataclass(frozen=True)
class GeneratorConfig:
    """generator/config.json: types and bounds are checked as it is read."""

    classes: int = field(metadata={"min": 1, "max": 1000})
    width: int = field(default=4, metadata={"min": 1, "max": 64})

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "GeneratorConfig":
        return read_config(cls, d, where)


class Generator(Model):
    """Classes [N] to pictures [N, 3, 8, 8] in -1..1, by two layers."""

    config_class = GeneratorConfig

    def __init__(self, config: GeneratorConfig):
        super().__init__(config)
        self.first = Linear(config.classes, config.width)
        self.last = Linear(config.width, 3 * SIDE * SIDE)

    def forward(self, labels: Tensor) -> Tensor:
        x = torch.nn.functional.one_hot(labels, self.config.classes).float()
        return torch.tanh(self.last(self.first(x))).view(-1, 3, SIDE, SIDE)


class ByClassPipeline(Pipeline):
    """Pictures of classes: pipe([0, 3])."""

    def __init__(self, generator: Generator, load: Load):
        super().__init__()
        self.generator, self.checkpoint, self.source = generator, load.checkpoint, load.source
        self.device, self.dtype = generator.device, generator.dtype

    @property
    def components(self) -> dict[str, Any]:
        return {"generator": self.generator}

    def __call__(self, class_labels: list[int]) -> PipelineOutput:
        pictures = self.generator(torch.tensor(class_labels))
        report = Report(self.source, self._class_name, str(self.device), "", "", SIDE, SIDE, 1.0)
        return PipelineOutput(pyengine.images.from_tensor(pictures, "pil"), [], report)


def build(load: Load) -> ByClassPipeline:
    """The pipeline of a checkpoint: tensors and config have been compared when it returns."""
    configs, sources = load.configs(["generator"])
    generator = load.network("generator", configs["generator"], sources["generator"])
    load.checkpoint.hold(sources)
    return ByClassPipeline(generator, load)


BY_CLASS = Family(
    name="by_class",
    title="pictures by class",
    state="of eight by eight pixels",
    classes=("ByClassPipeline",),
    parts={
        "generator": Part(
            kind="model",
            library="elsewhere",
            classes=("Generator",),
            network=Generator,
            summary=("classes", "width"),
        )
    },
    pipeline=ByClassPipeline,
    build=build,
    main="generator",
)


def write_checkpoint(folder: Path) -> None:
    """What training would have saved."""
    generator = torch.Generator().manual_seed(1)
    pixels = 3 * SIDE * SIDE
    shapes = {
        "first.weight": (4, 5),
        "first.bias": (4,),
        "last.weight": (pixels, 4),
        "last.bias": (pixels,),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    (folder / "generator").mkdir(parents=True)
    save_file(tensors, folder / "generator" / "model.safetensors")
    (folder / "generator" / "config.json").write_text(json.dumps({"classes": 5, "width": 4}))
    index = {"_class_name": "ByClassPipeline", "generator": ["elsewhere", "Generator"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def main(target: str) -> None:
    register(BY_CLASS)
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder) / "checkpoint")
        pipe = pyengine.from_pretrained(Path(folder) / "checkpoint", device="cpu")
        pipe([3]).images[0].save(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
