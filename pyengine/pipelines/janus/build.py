"""From a checkpoint to Janus' pipeline."""

from typing import Any

from ...errors import CheckpointError
from ..json_tokenizer import JsonTokenizer
from ..reading import Load
from .pipeline import JanusTokens, check_tokens_fit


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("model",), checkpoint.where)
    tokens = JanusTokens.from_dict(checkpoint.config("generation"), checkpoint.where("generation"))
    if "tokenizer" not in checkpoint.components:
        raise CheckpointError(f"{load.source}: expected tokenizer.json, found none")
    tokenizer = JsonTokenizer.from_files(checkpoint.tokenizer_files("tokenizer"), load.source)
    load.compare(check_tokens_fit, configs["model"], tokens, tokenizer)
    defaults = load.defaults()
    model = load.network("model", configs["model"], sources["model"])
    checkpoint.hold(sources)
    return load.pipeline_class(model, tokenizer, tokens, checkpoint, load.source, defaults)
