"""transformers' Llama with a static cache, a token and a whole picture, on torch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..pictures import SAMPLING, SEED
from ..worker import Notes, Run
from . import compiling


def eager(notes: Notes, *, threads: int, folder: Path, ids: np.ndarray, **place: Any) -> Run:
    """Logits after the last of ids [N, L], the others in the cache; place: device and dtype."""
    model = _load(notes, threads, folder, **place)
    return _step(model, model, ids)


def compiled(notes: Notes, *, threads: int, folder: Path, ids: np.ndarray, **place: Any) -> Run:
    """The same step by torch.compile; see .compiling."""
    model = _load(notes, threads, folder, **place)
    return _step(model, compiling.compiled(model, place["device"]), ids)


def _load(notes: Notes, threads: int, folder: Path, device: str, dtype: Any) -> Any:
    import torch

    torch.set_num_threads(threads)
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    log: Any = logging
    log.set_verbosity_error()
    log.disable_progress_bar()
    begin = time.perf_counter()
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    model = model.eval().to(device)
    notes["load_seconds"] = time.perf_counter() - begin
    return model


def _step(model: Any, call: Callable[..., Any], ids: np.ndarray) -> Run:
    import torch
    from transformers import StaticCache

    given = torch.from_numpy(ids).to(model.device)
    behind = given.shape[1] - 1
    places = torch.tensor([[behind]], device=model.device)
    cache: Any = StaticCache(config=model.config, max_cache_len=given.shape[1])
    with torch.no_grad():
        model(given[:, :-1], past_key_values=cache)
    lengths = [layer.cumulative_length for layer in cache.layers]
    before = [length.clone() for length in lengths]

    def run() -> Any:
        torch._foreach_copy_(lengths, before)  # one kernel for all layers
        with torch.no_grad():
            out = call(given[:, -1:], position_ids=places, past_key_values=cache)
        return out.logits[:, -1]

    return run


def picture(notes: Notes, *, threads: int, folder: Path, vq: Path, shape: Any, device: str) -> Run:
    """generate() with a static cache, guidance between the two rows, and diffusers' VQModel."""
    import torch
    from diffusers import VQModel
    from transformers import LogitsProcessor, LogitsProcessorList

    tokens, begin = shape.tokens(), time.perf_counter()
    model = _load(notes, threads, folder, device, shape.dtype)
    kind: Any = VQModel
    decoder = kind.from_pretrained(vq, torch_dtype=shape.dtype).eval().to(device)
    notes["load_seconds"] = time.perf_counter() - begin
    texts = [[tokens.first_text_token + i, tokens.begin_of_picture] for i in (0, 1)]
    text = torch.tensor(texts, device=device)

    class Guidance(LogitsProcessor):
        """Both rows draw from the guided logits of picture tokens, each for itself."""

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            conditional, other = scores
            guided: torch.Tensor = other + SAMPLING["guidance_scale"] * (conditional - other)
            guided[tokens.picture_tokens :] = -torch.inf
            return guided.repeat(2, 1)

    def run() -> Any:
        torch.manual_seed(SEED)
        with torch.no_grad():
            ids = model.generate(
                text,
                attention_mask=torch.ones_like(text),
                max_new_tokens=shape.side**2,
                min_new_tokens=shape.side**2,
                do_sample=True,
                top_k=SAMPLING["top_k"],
                temperature=SAMPLING["temperature"],
                cache_implementation="static",
                logits_processor=LogitsProcessorList([Guidance()]),
                pad_token_id=tokens.padding,
                eos_token_id=None,
                bos_token_id=None,
            )[0, text.shape[1] :]
            latents = decoder.quantize.embedding.weight[ids.view(1, shape.side, shape.side)]
            x = decoder.decode(latents.permute(0, 3, 1, 2), force_not_quantize=True).sample
        return (x * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    return run
