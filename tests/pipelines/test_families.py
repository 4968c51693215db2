"""A family of models is one record: what reads it, and that a new one needs no edit elsewhere."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pyengine
from pyengine import doctor
from pyengine.cli import main
from pyengine.errors import CheckpointError, RequestError
from pyengine.layers import Linear
from pyengine.models.base import Model
from pyengine.pipelines import Family, Part, PipelineOutput, Report, families, register, unregister
from pyengine.pipelines.base import Pipeline
from pyengine.pipelines.registry import TASKS, family_of
from pyengine.weights import Checkpoint, open_weights, read_config, resolve
from pyengine.weights.layout import find

ROOT = Path(__file__).resolve().parents[2]
SIDE = 8


# --- a family that somebody else makes: a generator of pictures by class, in one pass ------------


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    classes: int = dataclasses.field(metadata={"min": 1, "max": 1000})
    width: int = dataclasses.field(default=4, metadata={"min": 1, "max": 64})
    _class_name: str = ""

    @classmethod
    def from_dict(cls, d, where="config.json"):
        return read_config(cls, d, where)


class Generator(Model):
    config_class = GeneratorConfig

    def __init__(self, config):
        super().__init__(config)
        self.first = Linear(config.classes, config.width)
        self.last = Linear(config.width, 3 * SIDE * SIDE)

    def forward(self, labels):
        x = torch.nn.functional.one_hot(labels, self.config.classes).float()
        return torch.tanh(self.last(self.first(x))).view(-1, 3, SIDE, SIDE)


@dataclasses.dataclass(frozen=True)
class ByClassDefaults:
    brightness: float = 1.0


class ByClassPipeline(Pipeline):
    """Pictures of classes: pipe([0, 3])."""

    defaults_class = ByClassDefaults

    def __init__(self, name, generator, checkpoint, source, defaults):
        super().__init__()
        self.components = {name: generator}
        self.generator, self.checkpoint, self.source = generator, checkpoint, source
        self.defaults = defaults

    device = property(lambda self: self.generator.device)
    dtype = property(lambda self: self.generator.dtype)
    components = None

    def __call__(self, class_labels):
        pictures = self.defaults.brightness * self.generator(torch.as_tensor(class_labels))
        report = Report(self.source, self._class_name, "cpu", "", "one pass", SIDE, SIDE, 1.0)
        return PipelineOutput(pyengine.images.from_tensor(pictures, "pil"), [], report)


def build(load):
    name = load.family.main
    configs, sources = load.configs([name])
    generator = load.network(name, configs[name], sources[name])
    load.checkpoint.hold(sources)
    return load.pipeline_class(name, generator, load.checkpoint, load.source, load.defaults())


GENERATOR = Part(
    kind="model",
    library="elsewhere",
    other_libraries=("before",),
    classes=("Generator",),
    network=Generator,
    summary=("classes", "width"),
)
BY_CLASS = Family(
    name="by_class",
    title="pictures by class",
    state="of eight by eight pixels",
    classes=("ByClassPipeline",),
    parts={
        "generator": GENERATOR,
        "noise_scheduler": Part(kind="scheduler", library="diffusers"),
    },
    pipeline=ByClassPipeline,
    build=build,
    main="generator",
)


class OneFile(Checkpoint):
    """A file of the generator's tensors alone."""

    components = ("model",)
    pipeline_class = "GeneratorFile"
    options: dict = {}  # noqa: RUF012

    def __init__(self, path):
        self.source, self.path = str(path), path

    def config(self, name):
        with self.tensors(name) as source:
            width, classes = source.spec("first.weight")[1]
        return {"classes": classes, "width": width}

    def tensors(self, name):
        self._check_name(name)
        return open_weights(self.path.parent, basenames=(self.path.stem,))


SINGLE_FOLDER = dataclasses.replace(
    BY_CLASS,
    name="single",
    classes=("Generator",),
    parts={"model": GENERATOR},
    main="model",
    signature={"_class_name": "Generator", "classes": None},
)
SINGLE_FILE = dataclasses.replace(
    BY_CLASS,
    name="file",
    classes=("GeneratorFile",),
    parts={"model": GENERATOR},
    main="model",
    tensors=("first.weight", "last.weight"),
    file=OneFile,
)


def write(folder, family):
    """The place of a checkpoint of one of the three families."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "first.weight": (4, 5),
        "first.bias": (4,),
        "last.bias": (3 * SIDE * SIDE,),
        "last.weight": (3 * SIDE * SIDE, 4),
    }
    tensors = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    place = folder / "generator" if family is BY_CLASS else folder
    place.mkdir(parents=True)
    save_file(tensors, place / "model.safetensors")
    if family is SINGLE_FILE:
        return place / "model.safetensors"
    config = {"_class_name": "Generator", "classes": 5, "width": 4}
    (place / "config.json").write_text(json.dumps(config))
    if family is BY_CLASS:
        index = {
            "_class_name": "ByClassPipeline",
            "generator": ["before", "Generator"],
            "noise_scheduler": ["diffusers", "DDIMScheduler"],
        }
        noise = {"_class_name": "DDIMScheduler", "num_train_timesteps": 10}
        (folder / "noise_scheduler").mkdir()
        (folder / "noise_scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
        (folder / "model_index.json").write_text(json.dumps(index))
    else:
        (folder / "vocab.json").write_text("{}")  # another program's, of no part of the family
    return folder


@pytest.fixture(params=[BY_CLASS, SINGLE_FOLDER, SINGLE_FILE], ids=lambda family: family.name)
def family(request):
    before = families()
    register(request.param)
    yield request.param
    unregister(request.param.name)
    assert families() == before


def test_a_family_of_ones_own_is_loaded(family, tmp_path):
    place = write(tmp_path / "m", family)
    pipe = pyengine.from_pretrained(place)
    assert type(pipe) is ByClassPipeline
    assert (pipe.config._class_name, pipe.dtype) == (family.classes[0], torch.float32)
    assert len(resolve(place).model_hash) == 64
    images = pipe([0, 3, 3]).images
    assert [image.size for image in images] == [(SIDE, SIDE)] * 3
    assert np.array_equal(images[1], images[2])
    assert not np.array_equal(images[0], images[1])
    again = ByClassPipeline.from_pretrained(place)
    assert np.array_equal(again([3]).images[0], images[1])
    assert pipe.to(torch.bfloat16).generator.dtype == torch.bfloat16
    if family is not SINGLE_FILE:
        again.save_pretrained(tmp_path / "copy")
        copy = pyengine.from_pretrained(tmp_path / "copy")
        assert copy.config._class_name == family.classes[0]
        if family is BY_CLASS:
            assert copy.config.generator == ["elsewhere", "Generator"]
            assert copy.config.noise_scheduler == ["diffusers", "DDIMScheduler"]
        assert copy.checkpoint.model_hash == again.checkpoint.model_hash


def test_what_it_has_not_is_refused(family, tmp_path):
    place = write(tmp_path / "m", family)
    name = family.classes[0]
    with pytest.raises(RequestError, match=f"weights: expected None for {name}, given 'fp8'"):
        pyengine.from_pretrained(place, weights="fp8")
    with pytest.raises(RequestError, match=f"scheduler: expected none for a {name}"):
        pyengine.from_pretrained(place, scheduler="ddim")
    with pytest.raises(CheckpointError, match=r"cannot draw with.* ByClassPipeline.from_pretr"):
        pyengine.StableDiffusionPipeline.from_pretrained(place)
    with pytest.raises(CheckpointError, match="PictureGPTPipeline, which ByClassPipeline cannot"):
        ByClassPipeline.from_pretrained("emoji-ar")
    with pytest.raises(RequestError, match=f"a {name} has no class that draws from text alone"):
        pyengine.AutoPipelineForText2Image.from_pretrained(place)


def test_the_command_line_tells_of_it(family, tmp_path, capsys):
    place = write(tmp_path / "m", family)
    assert main(["info", str(place)]) == 0
    out = capsys.readouterr().out
    head, part, config, *schedulers, end = out.splitlines()
    noise = "  noise_scheduler: ddim: _class_name DDIMScheduler, num_train_timesteps 10"
    assert schedulers == ([noise] if family is BY_CLASS else [])
    numbers = 4 * 5 + 4 + (4 + 1) * 3 * SIDE * SIDE
    assert head == f"{place}: {family.classes[0]}, {numbers:,} parameters"
    assert part.startswith(f"  {family.main}: {numbers:,} parameters")
    assert config == "    classes 5, width 4"
    assert end.startswith("  hash: ")
    assert main(["info", str(place), "--plan"]) == 2
    assert f"is a {family.classes[0]}: expected a diffusion model" in capsys.readouterr().err
    assert family.name in doctor.examine()["families"]


def test_afterwards_it_is_forgotten(tmp_path):
    for family in (BY_CLASS, SINGLE_FOLDER, SINGLE_FILE):
        place = write(tmp_path / family.name, family)
        with pytest.raises(
            CheckpointError, match=r"ByClassPipeline|no model_index\.json|not a Stable Dif"
        ):
            pyengine.from_pretrained(place)
    with pytest.raises(KeyError):
        unregister("by_class")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "amused"}, "name: expected a new one, given 'amused'"),
        ({"classes": ("ByClassPipeline", "AmusedPipeline")}, "AmusedPipeline of by_class"),
        ({"signature": {"model_type": "janus"}}, "signature: that of by_class is janus's too"),
    ],
)
def test_a_family_that_takes_what_is_anothers(change, text):
    before = families()
    with pytest.raises(ValueError, match=text):
        register(dataclasses.replace(BY_CLASS, **change))
    assert families() == before


def test_what_is_no_family():
    with pytest.raises(TypeError, match=r"register: expected a .*Family, given 'x'"):
        register("x")
    with pytest.raises(KeyError, match="unregister: no family 'x'; there are amused"):
        unregister("x")


# --- the package's own ----------------------------------------------------------------------------


def test_every_folder_of_a_pipeline_has_a_family():
    folders = {p.parent.name for p in (ROOT / "pyengine/pipelines").glob("*/pipeline.py")}
    folders.discard("cascade")  # of pipelines that are loaded, so of no checkpoint of its own
    assert folders == {p.parent.name for p in (ROOT / "pyengine/pipelines").glob("*/family.py")}
    modules = {family.pipeline.partition(":")[0].split(".")[2] for family in families()}
    assert modules == folders


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_record_names_what_there_is(family):
    assert issubclass(family.pipeline_class, object)
    assert callable(find(family.build))
    assert family.parts[family.main].kind == "model"
    assert set(family.tasks) <= set(TASKS)
    assert set(family.optional) <= set(family.parts)
    assert set(family.refused.values()) <= set(family.classes)
    for reference in family.tasks.values():
        assert find(reference).__name__ in family.classes or family.signature
    for name, part in family.parts.items():
        if part.kind == "model":
            config = part.config_class()
            fields = {f.name for f in dataclasses.fields(config)}
            assert part.summary, name
            assert all(key.partition(".")[0] in {*fields, *dir(config)} for key in part.summary)
            assert issubclass(find(part.network), Model)
    assert family_of(family.classes[0]) is family
    assert isinstance(family.defaults_class(), object)
    assert (family.rehearse is None) != callable(find(family.rehearse))


def test_the_readme_tells_of_every_family():
    """Its table holds a line of each record, in the order of the records."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (.+?) \| (.+?) \|$", readme)
    own = [(family.title, family.state) for family in families()]
    assert [row for row in rows if row in own] == own


def test_a_record_costs_no_model():
    """Registry, info and loading import what the checkpoint at hand needs: of no other family."""
    code = (
        "import sys, pyengine\n"
        "pyengine.pipelines.families()\n"
        "def own(): return sorted(m for m in sys.modules if m.startswith('pyengine.'))\n"
        "print([m for m in own() if '.models' in m or m.endswith(('.pipeline', '.build'))])\n"
        "from pyengine.cli import main\n"
        "main(['info', 'emoji-ar'])\n"
        "pyengine.from_pretrained('emoji-ar')\n"
        "print([m for m in own() if m.endswith(('.pipeline', '.models.unet', '.models.janus'))])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    first, *_, last = done.stdout.splitlines()
    assert first == "[]"
    assert last == "['pyengine.pipelines.picture_gpt.pipeline']"
