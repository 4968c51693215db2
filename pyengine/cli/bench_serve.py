"""The options of `pyengine bench serve`."""

from typing import Annotated

from typer import Option

from .bench import Peers, Plot, Quick, Save, Threads, Without, _options, app
from .values import Json, models, real, whole


@app.command()
def serve(
    model: Annotated[
        list[str] | None,
        Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=models,
            show_default="emoji and emoji-ar; with --peers emoji",
            help="A model; may be repeated.",
        ),
    ] = None,
    load: Annotated[
        str, Option("--load", metavar="X,X", help="Loads, in times what the server can do.")
    ] = "0.5,0.8,1.2,10",
    seconds: Annotated[
        float, Option(metavar="SECONDS", parser=real(0), help="In which requests come, per load.")
    ] = 10.0,
    patience: Annotated[
        float, Option(metavar="SECONDS", parser=real(0), help="After which clients give up.")
    ] = 60.0,
    max_waiting: Annotated[
        int, Option(metavar="N", parser=whole(1), help="Jobs that may wait in our queue.")
    ] = 64,
    requests: Annotated[
        int,
        Option(
            metavar="N",
            parser=whole(0),
            help="Then so many small requests: what the process holds by and by.",
        ),
    ] = 0,
    only: Annotated[
        str, Option(metavar="TEXT", help="Of the kinds of requests those with this in their names.")
    ] = "",
    no_others: Annotated[bool, Option("--no-others", help="Measure our server alone.")] = False,
    peers: Peers = False,
    without: Without = None,
    threads: Threads = None,
    quick: Quick = False,
    json: Json = False,
    save: Save = None,
    plot: Plot = None,
) -> int:
    """A server under mixed load that does not wait for answers, below and above what it can do.

    \b
    pyengine bench serve
    pyengine bench serve --peers --plot load.png
    pyengine bench serve --load 10 --seconds 60
    pyengine bench serve -m emoji --only "4 steps" --load 10 --no-others
    pyengine bench serve --load 0.5 --seconds 1 --requests 20000

    Requests come at random times (Poisson), of several models, sizes and steps; one in fifty is
    long. First each kind alone, and how many a second the server does at most. Measured beside it:
    our pipelines one at a time, and with --peers diffusers' behind a lock. Answers are checked:
    none lost, none another's, and pictures drawn again alone are the same.
    """
    from ..bench.run import run_serve

    given = _options(
        peers=peers, without=without, threads=threads, quick=quick, json=json, save=save, plot=plot
    )
    return run_serve(
        given,
        model=model or [],
        load=load,
        seconds=seconds,
        patience=patience,
        max_waiting=max_waiting,
        requests=requests,
        only=only,
        others=not no_others,
    )
