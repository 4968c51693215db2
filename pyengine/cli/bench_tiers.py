"""The options of `pyengine bench tiers`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from .bench import Peers, Quick, Rounds, Save, Threads, _options, app
from .values import Json, models, whole


@app.command()
def tiers(
    model: Annotated[
        str,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=models,
            help="A Stable Diffusion model, which knows the things it was trained on.",
        ),
    ] = "emoji",
    data: Annotated[
        Path | None,
        Option(
            metavar="PLACE",
            show_default="none",
            help="Its data set: distances to that, and how often things are recognised.",
        ),
    ] = None,
    count: Annotated[
        int, Option(metavar="N", parser=whole(0), help="Pictures of each way; 0: times alone.")
    ] = 200,
    seed: Annotated[int, Option(metavar="N", parser=whole(0), help="Of the pictures.")] = 0,
    peers: Peers = False,
    threads: Threads = None,
    rounds: Rounds = 5,
    quick: Quick = False,
    json: Json = False,
    save: Save = None,
) -> int:
    """Whole pictures by less work: seconds of each way, and what it costs in quality.

    \b
    pyengine bench tiers --data emoji64 --peers
    pyengine bench tiers --count 0

    Fewer steps, effort "fast", deep layers at some steps alone, guidance for a part of the steps,
    each beside the steps of the model's own sampler that take as long. Frechet distances are over
    emoji-clip's features, to the pictures that the model draws by itself and to the data's.
    """
    from ..bench.run import run_tiers

    given = _options(peers=peers, threads=threads, rounds=rounds, quick=quick, json=json, save=save)
    return run_tiers(given, model=model, data=data, count=count, seed=seed)
