"""diffusers' U-Net and decoder converted to OpenVINO, with static shapes."""

import time
from pathlib import Path
from typing import Any

from ...errors import UnavailableError
from ..worker import Notes, Run


def convert(
    notes: Notes,
    *,
    threads: int,
    folder: Path,
    kind: str,
    inputs: dict[str, Any],
    to: Path,
) -> Run:
    """Writes the model to `to` unless it is there; notes the seconds. A call does nothing."""
    import openvino  # type: ignore[import-not-found,unused-ignore]  # optional
    import torch

    from .diffusers_models import module

    begin = time.perf_counter()
    if not to.exists():
        torch.set_num_threads(threads)
        model = _wrap(module(folder, kind), kind)
        example = tuple(torch.from_numpy(array) for array in inputs.values())
        with torch.no_grad():
            shapes = [array.shape for array in inputs.values()]
            found = openvino.convert_model(model, example_input=example, input=shapes)
        part = to.with_suffix(".part.xml")
        openvino.save_model(found, part, compress_to_fp16=False)
        part.with_suffix(".bin").rename(to.with_suffix(".bin"))
        part.rename(to)
    notes["convert_seconds"] = time.perf_counter() - begin
    return lambda: None


def _wrap(model: Any, kind: str) -> Any:
    import torch

    class UNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = model

        def forward(
            self,
            sample: Any,
            timestep: Any,
            text: Any,
            text_embeds: Any = None,
            time_ids: Any = None,
        ) -> Any:
            added = None
            if text_embeds is not None:
                added = {"text_embeds": text_embeds, "time_ids": time_ids}
            return self.unet(sample, timestep, text, added_cond_kwargs=added, return_dict=False)[0]

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = model

        def forward(self, sample: Any) -> Any:
            return self.vae.decode(sample, return_dict=False)[0]

    return UNet() if kind == "unet" else Decoder()


def static(
    notes: Notes,
    *,
    threads: int,
    inputs: dict[str, Any],
    converted: Path,
    precision: str | None = "f32",
    other_than: str | None = None,
) -> Run:
    """One request at a time on all threads; tensors are shared, not copied. Notes in which
    precision OpenVINO computes.

    precision: f32, throughout, or bf16 or f16, where OpenVINO computes in them on this CPU (in f32
    elsewhere, in silence); None: as it chooses by itself. other_than: UnavailableError where it
    computes in this one, which another contestant has.
    """
    import openvino  # type: ignore[import-not-found,unused-ignore]  # optional

    if not converted.exists():
        raise UnavailableError(f"{converted} is missing: the model was not converted")
    begin = time.perf_counter()
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    model = core.compile_model(core.read_model(converted), "CPU", settings)
    notes["precision"] = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if notes["precision"] == other_than:
        raise UnavailableError(f"by itself it computes in {other_than} here too")
    notes["load_seconds"] = time.perf_counter() - begin
    request = model.create_infer_request()
    values = list(inputs.values())

    def run() -> Any:
        return request.infer(values, share_inputs=True, share_outputs=True)[0]

    return run
