"""Checkpoints of the Hugging Face Hub: from its cache, or downloaded into it, pickles never."""

import fnmatch
import os
import re
from pathlib import Path

from ..errors import CheckpointError
from .checkpoint import MODELS, PARTS, TOKENIZER_FILES, FolderCheckpoint
from .files import CONVERT, is_pickle_name
from .jsonio import load_json
from .source import BASENAMES
from .text import listing, show

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")

SECONDS = 20  # to wait for the Hub's list of files


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form name or organisation/name."""
    return bool(HUB_ID.fullmatch(text)) and ".." not in text and "--" not in text


def open_hub(
    repo: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> FolderCheckpoint:
    """The checkpoint of a Hub repository: out of the cache if it is all there, without asking the
    network; else its JSON, text and safetensors files are downloaded, and no others.

    Raises CheckpointError, which says what is missing and why it could not be fetched.
    """
    folder = cached_folder(repo, revision=revision, cache_dir=cache_dir)
    damaged = None
    if folder is not None and (folder / "model_index.json").exists():
        try:
            checkpoint = FolderCheckpoint(folder, variant=variant, source=repo)
            missing = missing_files(checkpoint)
        except CheckpointError as e:
            damaged, missing = e, [str(e)]
        if not missing:
            return checkpoint
    if _is_offline():
        if damaged is not None:
            raise damaged
        why = f"its cache lacks {listing(missing)}" if folder else "it is not in the cache"
        raise CheckpointError(f"{repo}: the Hub is offline (HF_HUB_OFFLINE) and {why}")
    folder = download(repo, variant=variant, revision=revision, cache_dir=cache_dir)
    return FolderCheckpoint(folder, variant=variant, source=repo)


def cached_folder(
    repo: str, *, revision: str | None = None, cache_dir: str | os.PathLike | None = None
) -> Path | None:
    """The newest cached snapshot's folder, which may be incomplete; None if there is none."""
    from huggingface_hub import constants

    root = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    revision = revision or "main"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", revision) or ".." in revision:
        raise CheckpointError(f"revision {show(revision)} is no branch, tag or commit")
    reference = root / "refs" / revision
    if reference.is_file() and reference.stat().st_size <= 100:
        revision = reference.read_text(errors="replace").strip()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", revision) or ".." in revision:
        return None
    folder = root / "snapshots" / revision
    return folder if folder.is_dir() else None


def missing_files(checkpoint: FolderCheckpoint) -> list[str]:
    """Parts whose config, weights or vocabulary are not there: an interrupted download's."""
    missing = []
    for name in checkpoint.components:
        folder = checkpoint.folder / name
        if name in MODELS:
            if not (folder / "config.json").exists():
                missing.append(f"{name}/config.json")
            try:
                checkpoint.tensors(name).close()
            except CheckpointError as e:
                missing.append(str(e))
        elif name == "scheduler" and not (folder / "scheduler_config.json").exists():
            missing.append(f"{name}/scheduler_config.json")
        elif name.startswith("tokenizer") and not any(
            (folder / n).exists() for n in ("vocab.json", "tokenizer.json")
        ):
            missing.append(f"{name}/vocab.json")
    return missing


def download(
    repo: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Downloads what `wanted_files` names into the Hub's cache; returns the snapshot's folder."""
    import huggingface_hub

    where = {"revision": revision, "repo_id": repo}
    try:
        # The list first: without a network it fails at once, where a download tries for long.
        info = huggingface_hub.HfApi().model_info(**where, timeout=SECONDS)
        names = [file.rfilename for file in info.siblings or ()]
        if "model_index.json" not in names:
            raise CheckpointError(
                f"{repo}: no model_index.json: no checkpoint in diffusers' layout"
            )
        index = huggingface_hub.hf_hub_download(
            filename="model_index.json", cache_dir=cache_dir, **where
        )
        parts = [n for n in load_json(index) if n in PARTS]
        wanted = wanted_files(names, parts, variant, repo)
        # Names are patterns to this function: a bracket in one must not mean more.
        patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in wanted]
        folder = huggingface_hub.snapshot_download(
            allow_patterns=patterns, cache_dir=cache_dir, **where
        )
    except CheckpointError:
        raise
    except Exception as e:
        # Its errors come from half a dozen libraries; what they have in common is the message.
        reason = " ".join(str(e).split())
        raise CheckpointError(
            f"{repo}: no such folder here, and the Hub did not give it:"
            f" {type(e).__name__}: {show(reason, 300)}"
        ) from e
    return Path(folder)


def wanted_files(names: list[str], parts: list[str], variant: str | None, repo: str) -> list[str]:
    """The files of a repository that a checkpoint with these parts needs, out of all `names`."""
    wanted = ["model_index.json"]
    for part in parts:
        below = [n for n in names if n.startswith(f"{part}/") and n.count("/") == 1]
        if part in MODELS:
            weights = _weight_files(below, variant) or _weight_files(below, None)
            if not weights:
                pickles = [n for n in below if is_pickle_name(n)]
                reason = f"only pickles, {listing(map(show, pickles))}: {CONVERT}"
                raise CheckpointError(
                    f"{repo}: {part} has {reason if pickles else 'no safetensors weights'}"
                )
            wanted += [f"{part}/config.json", *weights]
        elif part == "scheduler":
            wanted.append("scheduler/scheduler_config.json")
        else:
            wanted += [n for n in below if n.split("/")[1] in TOKENIZER_FILES]
    return wanted


def _weight_files(names: list[str], variant: str | None) -> list[str]:
    dot = f".{variant}" if variant else ""
    for base in BASENAMES:
        whole = [n for n in names if n.endswith(f"/{base}{dot}.safetensors")]
        if whole:
            return whole
        indexes = {f"{base}.safetensors.index{dot}.json", f"{base}{dot}.safetensors.index.json"}
        found = [n for n in names if n.split("/")[1] in indexes]
        if found:
            shards = (f"*/{base}-*-of-*{dot}.safetensors", f"*/{base}{dot}-*-of-*.safetensors")
            if not variant:
                plain = re.compile(rf".*/{base}-\d+-of-\d+\.safetensors")
                return found + [n for n in names if plain.fullmatch(n)]
            return found + [n for n in names if any(fnmatch.fnmatchcase(n, s) for s in shards)]
    return []


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
