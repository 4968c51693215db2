"""The command `serve` and its options; the work is in serving.py."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from . import values
from .values import TIERS, ChosenDevice, Dtype, Preset, Variant, one_of, real, whole


def serve(
    models: Annotated[
        list[str] | None,
        Argument(
            metavar="MODEL...",
            autocompletion=values.models,
            show_default="emoji",
            help="Folders, .safetensors files, Hub ids or models that ship; the first is used"
            " where a request names none.",
        ),
    ] = None,
    host: Annotated[
        str, Option(metavar="HOST", help="Address to listen at; 0.0.0.0: from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(metavar="PORT", parser=whole(0), help="0: a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        Option(
            "--api-key",
            metavar="KEY",
            envvar="PYENGINE_API_KEY",
            show_default="none",
            help="A key that callers need; can be repeated (in the variable: with spaces between).",
        ),
    ] = None,
    api_key_file: Annotated[
        str | None,
        Option("--api-key-file", metavar="FILE", help="More keys, one a line."),
    ] = None,
    max_waiting: Annotated[
        int, Option(metavar="N", parser=whole(1), help="Jobs that may wait; more are refused.")
    ] = 64,
    deadline: Annotated[
        float,
        Option(metavar="SECONDS", parser=real(0), help="Within which every request is done."),
    ] = 120.0,
    rate: Annotated[
        int,
        Option(metavar="N", parser=whole(0), help="Requests a minute of each caller; 0: any."),
    ] = 0,
    memory: Annotated[
        str | None,
        Option(
            metavar="SIZE",
            show_default="on the CPU four fifths of what is free",
            help='What the pictures of an evaluation may take, such as "8GB".',
        ),
    ] = None,
    keep: Annotated[
        float,
        Option(metavar="SECONDS", parser=real(0), help="That a job is kept once it has ended."),
    ] = 3600.0,
    allowed_host: Annotated[
        list[str] | None,
        Option(
            "--allowed-host",
            metavar="NAME",
            show_default="localhost and addresses",
            help="That clients may call the server by, such as pictures.example.com; *: any;"
            " can be repeated.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Option(
            "--cors-origin",
            metavar="ORIGIN",
            show_default="none",
            help="Whose pages may call, such as https://example.com; can be repeated.",
        ),
    ] = None,
    alias_unknown_models: Annotated[
        bool,
        Option("--alias-unknown-models", help="Take an unknown model's name for the first one's."),
    ] = False,
    no_warm_up: Annotated[
        bool, Option("--no-warm-up", help="Take requests without a picture of each model first.")
    ] = False,
    device: ChosenDevice = None,
    dtype: Dtype = None,
    weights: Annotated[
        str | None,
        Option(
            metavar="TIER",
            autocompletion=one_of(TIERS),
            show_default="as stored",
            help="8 bits: int8 or fp8, of token models and U-Nets.",
        ),
    ] = None,
    variant: Variant = None,
    preset: Preset = None,
    lora_dir: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            show_default="none",
            help="LoRAs, which requests name: lora, <lora:name:0.8> in prompts.",
        ),
    ] = None,
    embeddings_dir: Annotated[
        Path | None,
        Option(
            metavar="FOLDER",
            show_default="none",
            help="Textual inversions, which prompts name as their files are called.",
        ),
    ] = None,
    controlnet: Annotated[
        str | None,
        Option(
            metavar="PLACE",
            help="A ControlNet's folder or file, beside every model; what it"
            " sees is a request's control_image.",
        ),
    ] = None,
    t2i_adapter: Annotated[
        str | None,
        Option(metavar="PLACE", help="A T2I-Adapter's folder or file, likewise."),
    ] = None,
    ip_adapter: Annotated[
        str | None,
        Option(
            metavar="PLACE",
            help="An IP-Adapter's folder or file; what it reads is a request's ip_adapter_image.",
        ),
    ] = None,
    image_encoder: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            show_default="image_encoder beside it",
            help="The IP-Adapter's encoder of pictures.",
        ),
    ] = None,
    ray: Annotated[
        bool,
        Option(
            "--ray",
            help="An engine in each of several processes, on this machine or, with"
            " RAY_ADDRESS, a cluster (the extra `ray`).",
        ),
    ] = False,
    replicas: Annotated[
        str | None,
        Option(
            metavar="COUNT",
            show_default="1",
            help="With --ray: how many engines; 1,8: as many as there is work for.",
        ),
    ] = None,
) -> int:
    """Serve models over HTTP: a page, OpenAI's images API, A1111's, jobs, health and metrics.

    \b
    pyengine serve emoji emoji-ar
    pyengine serve ./stable-diffusion-v1-5 --port 8080 --dtype bfloat16
    PYENGINE_API_KEY=secret pyengine serve emoji --host 0.0.0.0
    pyengine serve sd15 --lora-dir loras --controlnet control_canny.safetensors
    pyengine serve emoji --ray --replicas 2
    """
    from .serving import Options, given, keys_in, run

    return run(
        Options(
            models=models or ["emoji"],
            host=host,
            port=port,
            max_waiting=max_waiting,
            memory=memory,
            ray=ray,
            replicas=replicas,
            loading={
                "device": device or "auto",
                "dtype": dtype,
                "weights": weights,
                "variant": variant,
                **given(preset=preset, controlnet=controlnet, adapter=t2i_adapter),
            },
            folders=given(lora_dir=lora_dir, embeddings_dir=embeddings_dir),
            ip_adapter=given(place=ip_adapter, image_encoder=image_encoder),
            settings={
                "api_keys": (*(api_key or ()), *keys_in(api_key_file)),
                "deadline": deadline,
                "rate": rate,
                "keep": keep,
                "allowed_hosts": tuple(allowed_host or ()),
                "cors_origins": tuple(cors_origin or ()),
                "warm_up": not no_warm_up,
                "alias_unknown_models": alias_unknown_models,
            },
        )
    )
