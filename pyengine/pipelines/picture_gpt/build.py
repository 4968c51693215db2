"""From a checkpoint to PictureGPT's pipeline."""

from typing import Any

from ...models import PictureTokens
from ...tokenizer import ClipTokenizer
from ..reading import Load, read_drafts
from .pipeline import PictureGPTParts, check_parts


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("transformer", "vqvae"), checkpoint.where)
    tokens = PictureTokens.from_dict(checkpoint.config("tokens"), checkpoint.where("tokens"))
    files = checkpoint.tokenizer_files("tokenizer")
    tokenizer = ClipTokenizer.from_files(files, f"{load.source}: tokenizer")
    load.compare(check_parts, *configs.values(), tokens, tokenizer)
    defaults = load.defaults()
    drafts = read_drafts(checkpoint, "tokens", tokens.side, tokens.picture_tokens)
    models = {name: load.network(name, configs[name], source) for name, source in sources.items()}
    checkpoint.hold(sources)
    drafts = None if drafts is None else drafts.to(load.device)
    parts = PictureGPTParts(**models, tokenizer=tokenizer, tokens=tokens, drafts=drafts)
    return load.pipeline_class(parts, checkpoint, load.source, defaults)
