"""The options of `pyengine train` and `pyengine eval`; train.py runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from . import values
from .values import MODEL, Device, Json, real, whole

train_app = typer.Typer(help="Train the models that ship (needs the extra `train`).")

Data = Annotated[
    Path | None,
    Option(
        metavar="PATH", show_default="$PYENGINE_DATA", help="Folder with train.npz, or the file."
    ),
]
Out = Annotated[
    Path,
    Option("--out", "-o", metavar="FOLDER", help="Folder of the run; it goes on where it stopped."),
]
Minutes = Annotated[
    float | None, Option(metavar="X", parser=real(0), help="Stop earlier, after so many.")
]
Threads = Annotated[
    int | None,
    Option(metavar="N", parser=whole(1), show_default="one a core", help="CPU threads."),
]
Export = Annotated[Path | None, Option(metavar="PATH", help="Write the model here when done.")]
Seed = Annotated[int, Option(metavar="N", parser=whole(0), help="Of all that is random.")]
Concepts = Annotated[
    Path | None,
    Option(metavar="FILE", show_default="the model's concepts.txt", help="File of labels."),
]
Style = Annotated[str, Option(metavar="NAME", help="The set of emoji to ask for.")]
Count = Annotated[int, Option(metavar="N", parser=whole(1), help="Labels to ask for.")]
Guidance = Annotated[
    float | None,
    Option(metavar="X", parser=real(), show_default="the model's", help="Guidance scale."),
]
Pictures = Annotated[Path | None, Option(metavar="FILE", help="Save what was drawn as a sheet.")]


def _recipes(metavar: str, parser: Callable[[str], Any], help: str) -> Any:
    """An option whose default is the recipe's."""
    return Option(metavar=metavar, parser=parser, show_default="the recipe's", help=help)


def _run(name: str, options: dict[str, Any]) -> int:
    """train.run_<name>, which is imported when it runs."""
    from . import train

    status: int = getattr(train, f"run_{name}")(**options)
    return status


@train_app.command("emoji")
def train_emoji(
    data: Data = None,
    out: Out = Path("emoji-run"),
    steps: Annotated[
        int,
        Option(
            metavar="N", parser=whole(1), help="Steps of the noise predictor, from its beginning."
        ),
    ] = 30000,
    minutes: Minutes = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Seed = 1,
    batch: Annotated[int | None, _recipes("N", whole(1), "Pictures a step.")] = None,
    rate: Annotated[float | None, _recipes("X", real(0), "Learning rate.")] = None,
    init_from: Annotated[
        Path | None, Option(metavar="PATH", help="An exported model to begin from.")
    ] = None,
    export: Export = None,
) -> int:
    """Train the emoji model, or go on where it stopped.

    \b
    pyengine train data --out emoji64
    pyengine train emoji --data emoji64 --out emoji-run --minutes 60 --export emoji
    """
    return _run("emoji", locals())


@train_app.command("emoji-ar")
def train_emoji_ar(
    data: Data = None,
    out: Out = Path("emoji-ar-run"),
    steps: Annotated[
        int,
        Option(metavar="N", parser=whole(1), help="Steps of the transformer, from its beginning."),
    ] = 4600,
    vq_steps: Annotated[
        int | None, _recipes("N", whole(1), "Steps of the VQ-VAE, from its beginning.")
    ] = None,
    minutes: Minutes = None,
    device: Device = "cpu",
    threads: Threads = None,
    seed: Annotated[int | None, _recipes("N", whole(0), "Of the run.")] = None,
    batch: Annotated[
        int | None, _recipes("N", whole(1), "Pictures a step of the transformer.")
    ] = None,
    rate: Annotated[
        float | None, _recipes("X", real(0), "The transformer's learning rate.")
    ] = None,
    cool: Annotated[
        int,
        Option(
            metavar="N",
            parser=whole(0),
            help="More steps for what is exported, the rate descending to zero.",
        ),
    ] = 250,
    sharpen: Annotated[
        int,
        Option(
            metavar="N",
            parser=whole(0),
            help="Steps of the decoder before the first export, tokens held.",
        ),
    ] = 2000,
    export: Export = None,
) -> int:
    """Train the model that draws emoji token by token, or go on where it stopped.

    \b
    pyengine train data --out emoji64
    pyengine train emoji-ar --data emoji64 --out emoji-ar-run --minutes 60 --export emoji-ar
    """
    return _run("emoji_ar", locals())


#: The small models, one of each family: what `pyengine train NAME` calls them, and what they are.
SMALL = {
    "vae": "a conditional variational autoencoder",
    "flow": "a conditional normalising flow",
    "gan": "a conditional GAN",
    "one-shot": "text to all pixels at once, by regression",
    "ddpm": "pixel diffusion",
    "cascade": "pixel diffusion of a small picture, then of a larger one beside it",
    "prior": "a text to the embedding of a picture, and that to latents",
    "clip": "a contrastive encoder of pictures and texts",
    "pixels": "one pixel after another, in colours of a palette",
    "masked": "all tokens of a picture at once, refined",
    "classifier": "which thing a noised picture shows, for guidance",
}


def _train_small(name: str, title: str) -> None:
    @train_app.command(name)
    def train(
        data: Data = None,
        out: Annotated[
            Path,
            Option(
                "--out",
                "-o",
                metavar="FOLDER",
                help="Folder of the run; it goes on where it stopped.",
            ),
        ] = Path(f"{name}-run"),
        steps: Annotated[
            int | None, _recipes("N", whole(1), "Steps of the whole training.")
        ] = None,
        minutes: Minutes = None,
        device: Device = "cpu",
        threads: Threads = None,
        seed: Annotated[int | None, _recipes("N", whole(0), "Of the run.")] = None,
        batch: Annotated[int | None, _recipes("N", whole(1), "Pictures a step.")] = None,
        rate: Annotated[float | None, _recipes("X", real(0), "Learning rate.")] = None,
        export: Export = None,
    ) -> int:
        return _run("small", {"name": name, **locals()})

    train.__doc__ = f"""Train a small model, {title}, or go on where it stopped.

    \b
    pyengine train data --out emoji64
    pyengine train {name} --data emoji64 --minutes 10 --export emoji-{name}
    """


for _name, _title in SMALL.items():
    _train_small(_name, _title)


@train_app.command("lora")
def train_lora(
    style: Annotated[str, Option(metavar="NAME", help="The pictures of the data to learn.")],
    data: Data = None,
    out: Out = Path("lora-run"),
    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A model that ships, or a folder of one of v-prediction.",
        ),
    ] = "emoji",
    rank: Annotated[int | None, _recipes("N", whole(1), "Of the products.")] = None,
    alpha: Annotated[
        float | None,
        Option(metavar="X", parser=real(0), show_default="the rank", help="They count alpha/rank."),
    ] = None,
    text_encoder: Annotated[
        bool, Option("--text-encoder", help="Change the text encoder, too.")
    ] = False,
    steps: Annotated[int | None, _recipes("N", whole(1), "Steps of the whole run.")] = None,
    minutes: Minutes = None,
    batch: Annotated[int | None, _recipes("N", whole(1), "Pictures a step.")] = None,
    rate: Annotated[float | None, _recipes("X", real(0), "Learning rate.")] = None,
    seed: Seed = 1,
    device: Device = "cpu",
    threads: Threads = None,
    export: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Write the LoRA here when done, with a sheet and a card."),
    ] = None,
) -> int:
    """Teach a model another style of the pictures, as a LoRA, or go on where it stopped.

    Without --data the pictures are built in the run's folder first, as `train data` does.

    \b
    pyengine train lora --style fluent-flat --out lora-run --export emoji-flat
    pyengine generate "a fox" --lora-dir emoji-flat --lora emoji-flat -o fox.png
    """
    return _run("lora", locals())


@train_app.command("data")
def train_data(
    out: Annotated[
        Path, Option("--out", "-o", metavar="FOLDER", help="Folder for train.npz and the others.")
    ] = Path("emoji64"),
    packages: Annotated[
        list[Path] | None,
        Option(
            metavar="FOLDER",
            show_default="fetched by npm",
            help="Folder of unpacked npm packages; may be repeated.",
        ),
    ] = None,
    size: Annotated[int, Option(metavar="N", parser=whole(8), help="Pixels a side.")] = 64,
    held_out: Annotated[
        float, Option(metavar="X", parser=real(), help="Share kept for evaluation.")
    ] = 0.05,
    seed: Seed = 0,
) -> int:
    """Build the emoji pictures from the npm packages that they come from."""
    return _run("data", locals())


def evaluate(
    model: Annotated[
        str,
        Argument(metavar="NAME", autocompletion=values.models, help=MODEL, show_default=False),
    ],
    data: Data = None,
    concepts: Concepts = None,
    style: Style = "fluent-3d",
    count: Count = 200,
    seed: Seed = 0,
    repeats: Annotated[
        int, Option(metavar="N", parser=whole(1), help="Draw all so often, for the spread.")
    ] = 1,
    steps: Annotated[
        int | None,
        Option(metavar="N", parser=whole(1), show_default="the model's", help="Its steps."),
    ] = None,
    guidance: Guidance = None,
    features: Annotated[
        str,
        Option(
            metavar="PLACE",
            help="What distances are over: emoji-clip, a CLIP's folder, InceptionV3's file, none.",
        ),
    ] = "emoji-clip",
    device: Device = "auto",
    pictures: Pictures = None,
    save: Annotated[
        Path | None,
        Option(metavar="FILE", help="A JSON file of evaluations that this one goes into."),
    ] = None,
    json: Json = False,
) -> int:
    """Measure a model that ships or any other (needs the extra `train`).

    How often its pictures are recognised: the nearest training pictures in 16x16 RGB; Frechet and
    kernel distance, precision, recall, density and coverage over a feature network, and CLIP's
    score. Of the models that guide others: how often they tell what a picture shows.

    \b
    pyengine eval emoji-masked --data emoji64
    pyengine eval emoji-classifier --data emoji64
    """
    return _run("evaluation", locals())
