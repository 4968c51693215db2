"""Checkpoints of the Hugging Face Hub: from its cache, or downloaded into it, pickles never."""

import fnmatch
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .checkpoint import TOKENIZER_FILES, VOCABULARIES, Checkpoint, FolderCheckpoint, is_absent
from .files import CONVERT, is_pickle_name, refuse_pickle
from .jsonio import load_json
from .layout import (
    BESIDE,
    Part,
    expected_model_types,
    layout_of,
    layout_of_model,
    without_beside,
)
from .single_model import SingleModelCheckpoint, holds_single_model
from .source import BASENAMES, open_weights
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
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    ignore_config_keys: Iterable[str] = (),
) -> Checkpoint:
    """The checkpoint of a Hub repository: out of the cache if it is all there, without asking the
    network; else its JSON, text and safetensors files are downloaded, and no others.

    local_files_only: never ask the network. force_download: ask it although all is cached.
    Raises CheckpointError, which says what is missing and why it could not be fetched.
    """
    folder = cached_folder(repo, revision=revision, cache_dir=cache_dir)
    damaged, missing = None, ["model_index.json"]
    if folder is not None:
        try:
            if _holds_checkpoint(folder):
                checkpoint = _open(folder, variant, repo, ignore_config_keys)
                missing = missing_files(checkpoint)
        except CheckpointError as e:
            damaged, missing = e, [str(e)]
        if not missing and not force_download:
            return checkpoint
    if local_files_only or _is_offline():
        if damaged is not None:
            raise damaged
        offline = "local_files_only" if local_files_only else "the Hub is offline (HF_HUB_OFFLINE)"
        if not missing:
            raise CheckpointError(f"{repo}: force_download, but {offline}")
        why = f"its cache lacks {listing(missing)}" if folder else "it is not in the cache"
        raise CheckpointError(f"{repo}: {offline} and {why}")
    folder = download(
        repo,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        force_download=force_download,
    )
    return _open(folder, variant, repo, ignore_config_keys)


def _holds_checkpoint(folder: Path) -> bool:
    return os.path.exists(folder / "model_index.json") or holds_single_model(folder)


def _open(
    folder: Path, variant: str | None, repo: str, ignored: Iterable[str]
) -> FolderCheckpoint | SingleModelCheckpoint:
    kind = SingleModelCheckpoint if holds_single_model(folder) else FolderCheckpoint
    return kind(folder, variant=variant, source=repo, ignore_config_keys=ignored)


def cached_folder(
    repo: str, *, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
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


def missing_files(checkpoint: FolderCheckpoint | SingleModelCheckpoint) -> list[str]:
    """Parts whose config, weights or vocabulary are not there: an interrupted download's."""
    missing = []
    if isinstance(checkpoint, SingleModelCheckpoint):
        try:
            checkpoint.tensors("model").close()
        except CheckpointError as e:
            missing.append(str(e))
        needed = checkpoint.layout.needed
        return missing + [n for n in needed if not os.path.exists(checkpoint.folder / n)]
    for name in checkpoint.components:
        folder, part = checkpoint.place(name), checkpoint.layout.parts[name]
        if part.kind == "tokenizer":
            if not any(os.path.exists(folder / n) for n in VOCABULARIES):
                missing.append(f"{name}/vocab.json")
            continue
        if not os.path.exists(folder / part.config_file):
            missing.append(f"{name}/{part.config_file}")
        if part.kind == "model":
            try:
                checkpoint.tensors(name).close()
            except CheckpointError as e:
                missing.append(str(e))
    for folder in (f for folders in checkpoint.beside.values() for f in folders):
        if not os.path.exists(folder / "config.json"):
            missing.append(f"{folder.name}/config.json")
        try:
            open_weights(folder, variant=checkpoint.variant).close()
        except CheckpointError as e:
            missing.append(str(e))
    return missing


def download(
    repo: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
) -> Path:
    """Downloads what `wanted_files` names into the Hub's cache; returns the snapshot's folder."""
    import huggingface_hub

    where: dict[str, Any] = {"revision": revision, "repo_id": repo}
    where |= {} if token is None else {"token": token}
    place: dict[str, Any] = {"cache_dir": cache_dir, **where}
    place |= {"force_download": True} if force_download else {}
    try:
        # The list first: without a network it fails at once, where a download tries for long.
        info = huggingface_hub.HfApi().model_info(**where, timeout=SECONDS)
        names = [file.rfilename for file in info.siblings or ()]
        first = next((n for n in ("model_index.json", "config.json") if n in names), None)
        if first is None:
            raise CheckpointError(
                f"{repo}: no model_index.json: no checkpoint in diffusers' layout"
            )
        index = load_json(huggingface_hub.hf_hub_download(filename=first, **place))
        if first == "config.json":
            wanted = single_model_files(names, index, variant, repo)
        else:
            layout = layout_of(without_beside(index.get("_class_name")))
            # Of another class nothing more is fetched; opening the folder then refuses it.
            known = {} if layout is None else layout.parts
            parts = {n: known[n] for n, v in index.items() if n in known and not is_absent(v)}
            flat = layout is not None and layout.flat
            wanted = wanted_files(names, parts, variant, repo, flat)
            if layout is not None and index["_class_name"] in layout.beside:
                wanted += beside_files(names, index, variant, repo)
        # Names are patterns to this function: a bracket in one must not mean more.
        patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in wanted]
        folder = huggingface_hub.snapshot_download(allow_patterns=patterns, **place)
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


def download_file(
    repo: str,
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    ends: tuple[str, ...] = (".safetensors",),
) -> Path:
    """The path of one file of a repository, out of the Hub's cache or downloaded. ends: what its
    name may end in.
    """
    import huggingface_hub

    refuse_pickle(Path(name))
    if not name.endswith(ends):
        raise CheckpointError(f"{repo}: {show(name)} is no {ends[-1]} file")
    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "token": token,
        "force_download": bool(force_download),
        "local_files_only": bool(local_files_only) or _is_offline(),
    }
    try:
        path: str = huggingface_hub.hf_hub_download(repo, name, revision=revision, **options)
    except Exception as e:  # as in `download`
        reason = " ".join(str(e).split())
        raise CheckpointError(
            f"{repo}: no such file here, and the Hub did not give {show(name)}:"
            f" {type(e).__name__}: {show(reason, 300)}"
        ) from e
    return Path(path)


def fetch(
    repo: str,
    names: Iterable[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool | None = None,
    **how: Any,
) -> Path:
    """The folder of a repository's snapshot that holds these files, JSON or safetensors: out of
    the Hub's cache where all are there, without asking the network, else each is downloaded.
    how: token, local_files_only.
    """
    names = list(names)
    folder = cached_folder(repo, revision=revision, cache_dir=cache_dir)
    if folder is not None and not force_download and all((folder / n).is_file() for n in names):
        return folder
    for name in names:
        path = download_file(
            repo,
            name,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            ends=(".json", ".safetensors"),
            **how,
        )
    return path.parents[name.count("/")]


def wanted_files(
    names: list[str], parts: Mapping[str, Part], variant: str | None, repo: str, flat: bool = False
) -> list[str]:
    """The files of a repository that a checkpoint with these parts needs, out of all `names`.

    flat: as Layout has it.
    """
    wanted = ["model_index.json", *(n for n in ("pyengine.json",) if n in names)]
    for name, part in parts.items():
        below = [n for n in names if n.startswith(f"{name}/") and n.count("/") == 1]
        if flat and not below:
            wanted.append(part.config_file)
            if part.kind == "model":
                beside = [f"/{n}" for n in names if "/" not in n]
                wanted += [n[1:] for n in _weights(beside, variant, f"{repo}: {name}")]
            continue
        if part.kind == "tokenizer":
            wanted += [n for n in below if n.split("/")[1] in TOKENIZER_FILES]
            continue
        wanted.append(f"{name}/{part.config_file}")
        if part.kind == "model":
            wanted += _weights(below, variant, f"{repo}: {name}")
        elif part.kind == "settings":  # drafts may lie beside them
            wanted += [n for n in below if n == f"{name}/model.safetensors"]
    return wanted


def beside_files(
    names: list[str], index: Mapping[str, Any], variant: str | None, repo: str
) -> list[str]:
    """The same of the ControlNets and adapters that model_index.json names beside the model."""
    wanted = []
    for name in BESIDE:
        folders = {n.split("/")[0] for n in names if re.fullmatch(rf"{name}(_\d+)?/[^/]+", n)}
        for folder in sorted(folders) if name in index else ():
            below = [n for n in names if n.startswith(f"{folder}/") and n.count("/") == 1]
            wanted += [f"{folder}/config.json", *_weights(below, variant, f"{repo}: {folder}")]
    return wanted


def single_model_files(
    names: list[str], config: Mapping[str, Any], variant: str | None, repo: str
) -> list[str]:
    """The same of a repository with one model, as transformers saves it. config: its config.json,
    parsed.
    """
    layout = layout_of_model(config)
    if layout is None:
        raise CheckpointError(
            f"{repo}: no model_index.json: no checkpoint in diffusers' layout, and config.json's"
            f" model_type is {show(config.get('model_type'))}, expected {expected_model_types()}"
        )
    weights = _weights([f"/{n}" for n in names if "/" not in n], variant, repo)
    others = (*layout.files.values(), *TOKENIZER_FILES, "pyengine.json")
    return ["config.json", *(n[1:] for n in weights), *(n for n in others if n in names)]


def _weights(names: list[str], variant: str | None, where: str) -> list[str]:
    """The weights' files among those of one folder, [folder]/name; those of no variant, if need be.

    Raises CheckpointError where there are none.
    """
    weights = _weight_files(names, variant) or _weight_files(names, None)
    if not weights:
        pickles = [n for n in names if is_pickle_name(n)]
        reason = f"only pickles, {listing(map(show, pickles))}: {CONVERT}"
        raise CheckpointError(f"{where} has {reason if pickles else 'no safetensors weights'}")
    return weights


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
