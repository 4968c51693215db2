"""What is known of upscalers."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.upscale"

RRDB = Family(
    name="rrdbnet",
    title="upscaling: ESRGAN, Real-ESRGAN (RRDBNet)",
    state="files of ESRGAN's old and new names and of BasicSR's; big pictures in tiles; `pyengine"
    " upscale`, `upscaler=` in any call; held to a plain reading of the paper",
    classes=("RRDBNet",),
    signature={"model_type": "rrdbnet"},
    tensors=("conv_first.weight", "conv_body.weight", "body.0.rdb1.conv1.weight"),
    other_tensors=(
        ("conv_first.weight", "trunk_conv.weight", "RRDB_trunk.0.RDB1.conv1.weight"),
        ("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
    ),
    file=f"{_HERE}.file:RRDBFile",
    parts={
        "model": Part(
            kind="model",
            library="pyengine",
            classes=("RRDBNet",),
            network="pyengine.models:RRDBNet",
            summary=("scale", "num_feat", "num_block", "num_grow_ch", "num_upsample"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:UpscalePipeline",
    build=f"{_HERE}.build:build",
    main="model",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=70,
)
COMPACT = Family(
    name="srvgg_compact",
    title="upscaling: Real-ESRGAN's compact form (SRVGGNetCompact)",
    state="the same, with PReLU",
    classes=("SRVGGNetCompact",),
    signature={"model_type": "srvgg_compact"},
    tensors=("body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight"),
    file=f"{_HERE}.file:CompactFile",
    parts={
        "model": Part(
            kind="model",
            library="pyengine",
            classes=("SRVGGNetCompact",),
            network="pyengine.models:SRVGGNetCompact",
            summary=("upscale", "num_feat", "num_conv"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:UpscalePipeline",
    build=f"{_HERE}.build:build",
    main="model",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=71,
)
