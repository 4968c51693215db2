"""Textual inversion: learnt tokens, read from every format that they come in.

Gal et al. 2022, arXiv:2208.01618: new words are rows of a text encoder's table of tokens. A file
holds them as

- {token: [C] or [K, C]}, one tensor for each token (diffusers);
- emb_params (web UIs), or string_to_param["*"] of the older files;
- clip_l and clip_g, one for each of SDXL's text encoders;
- tensors beside a LoRA, told by the metadata (cloneofsimo).

K vectors stand for one token: where a prompt names it, all of them follow each other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, RequestError
from ..weights.text import listing, show
from .file import LoraFile
from .ordinal import is_ordinal, is_token

#: A prompt's 75 tokens hold no more; with several chunks 256 are 4 of them.
MAX_VECTORS = 256
MAX_TOKENS = 1024
MAX_TOKEN_LENGTH = 200
#: What the one tensor of a file is called that does not name its token.
UNNAMED = ("emb_params", "string_to_param.*", "string_to_param", "*")
#: Tensors for one text encoder of SDXL.
ENCODER_OF = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


@dataclass(frozen=True, eq=False)
class Learnt:
    """A learnt token. vectors: by text encoder ("text_encoder", "text_encoder_2") [K, C] float32.
    sha256: of its file, "" where it came as tensors.
    """

    token: str
    vectors: Mapping[str, Tensor]
    source: str
    sha256: str = ""


def read_file(
    file: LoraFile, tokens: Sequence[str] | None, widths: Mapping[str, int]
) -> list[Learnt]:
    """The learnt tokens of a file. tokens: their names, in place of the file's. widths: C by text
    encoder of the model, one of them where the caller says which.

    Raises CheckpointError that names the tensor, for widths that no text encoder has, for tensors
    that are no embeddings, too many or not finite; RequestError for names that do not fit.
    """
    names = list(file.tensors)
    if len(names) > MAX_TOKENS:
        beside = [n for n in names if is_token(n, file.metadata)]
        if not beside:
            raise CheckpointError(
                f"{file.source}: expected at most {MAX_TOKENS} tensors of learnt"
                f" tokens, found {len(names)}"
            )
        names = beside
    elif is_ordinal(names) or any(is_token(n, file.metadata) for n in names):
        names = [n for n in names if is_token(n, file.metadata)]
        if not names:
            raise CheckpointError(
                f"{file.source}: a LoRA without learnt tokens; load_lora reads it"
            )
    for name in names:
        dtype, shape = file.tensors.spec(name)
        _check_spec(name, dtype, shape, file.source)
        if name not in ENCODER_OF:
            _fitting(name, shape[-1], widths, file.source)
    tensors = {name: file.tensors.read(name, torch.float32) for name in names}
    return read_tensors(
        tensors, tokens, widths, file.source, _stem(file.path), file.sha256, file.metadata
    )


def read_tensors(
    tensors: Mapping[str, Tensor],
    tokens: Sequence[str] | None,
    widths: Mapping[str, int],
    source: str,
    name: str | None = None,
    sha256: str = "",
    metadata: Mapping[str, str] | None = None,
) -> list[Learnt]:
    """As read_file, of tensors by name. name: of the token where nothing else tells it."""
    if not tensors:
        raise CheckpointError(f"{source}: holds no tensors; expected learnt tokens")
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{source}: {show(key)}: expected a tensor, found {show(type(tensor).__name__)}"
            )
        _check_spec(key, tensor.dtype, tuple(tensor.shape), source)
    if any(key in ENCODER_OF for key in tensors):
        found = _of_encoders(tensors, widths, source)
        return _named(found, tokens, name, source, sha256)
    unnamed = [key for key in tensors if key in UNNAMED]
    if unnamed:
        if len(tensors) > 1:
            raise CheckpointError(
                f"{source}: {show(unnamed[0])} is there beside {len(tensors) - 1} other tensors,"
                f" {listing(map(show, tensors.keys() - {unnamed[0]}), 4)}; expected it alone"
            )
        told = (metadata or {}).get("name") or name
        part, vectors = _placed(unnamed[0], tensors[unnamed[0]], widths, source)
        return _named({part: vectors}, tokens, told, source, sha256)
    return _of_tokens(tensors, tokens, widths, source, sha256)


def _of_encoders(
    tensors: Mapping[str, Tensor], widths: Mapping[str, int], source: str
) -> dict[str, Tensor]:
    """clip_l and clip_g by the part that they are for."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        part = ENCODER_OF.get(key)
        if part is None:
            raise CheckpointError(f"{source}: {show(key)}: expected clip_l and clip_g alone")
        if part not in widths:
            raise CheckpointError(
                f"{source}: {show(key)}, [{tensor.shape[-1]}] wide, is for a {part}, which this"
                f" model has not: expected {_expected(widths)}"
            )
        if tensor.shape[-1] != widths[part]:
            raise CheckpointError(
                f"{source}: {show(key)}: expected vectors of {widths[part]} numbers, as this"
                f" model's {part} has, found {list(tensor.shape)}"
            )
        found[part] = _vectors(key, tensor, source)
    if len({len(v) for v in found.values()}) > 1:
        counts = " and ".join(str(len(v)) for v in found.values())
        raise CheckpointError(
            f"{source}: clip_l and clip_g: expected as many vectors of both, found {counts}"
        )
    return found


def _of_tokens(
    tensors: Mapping[str, Tensor],
    tokens: Sequence[str] | None,
    widths: Mapping[str, int],
    source: str,
    sha256: str,
) -> list[Learnt]:
    """One tensor for each token, under its name or the one that the caller gives it."""
    names = list(tensors)
    if tokens is not None and len(tokens) != len(names):
        chosen = [n for n in names if n in tokens]
        if len(chosen) != len(tokens):
            raise RequestError(
                f"token: {source} holds {len(names)} tokens, {listing(map(show, names), 8)}:"
                f" expected a name for each, or some of these, given {show(list(tokens))}"
            )
        names = list(tokens)
    found = []
    for own, key in zip(tokens or names, names, strict=True):
        part, vectors = _placed(key, tensors[key], widths, source)
        found.append(Learnt(check_token(own, source), {part: vectors}, source, sha256))
    return found


def _named(
    vectors: Mapping[str, Tensor],
    tokens: Sequence[str] | None,
    name: str | None,
    source: str,
    sha256: str,
) -> list[Learnt]:
    """One token of all the vectors; where several are named, one of each vector."""
    if tokens is None:
        if name is None:
            raise RequestError(f"token: {source} does not name its token: expected a name")
        tokens = [name]
    if len(tokens) == 1:
        return [Learnt(check_token(tokens[0], source), dict(vectors), source, sha256)]
    count = len(next(iter(vectors.values())))
    if len(tokens) != count:
        raise RequestError(
            f"token: {source} holds {count} vectors: expected one name, or {count},"
            f" given {len(tokens)}"
        )
    return [
        Learnt(
            check_token(own, source), {p: v[i : i + 1] for p, v in vectors.items()}, source, sha256
        )
        for i, own in enumerate(tokens)
    ]


def check_token(token: Any, where: str = "token") -> str:
    """A token as prompts can name it. Raises RequestError for any other."""
    well = isinstance(token, str) and token == token.strip() and token.isprintable()
    if not well or not 1 <= len(token) <= MAX_TOKEN_LENGTH:
        raise RequestError(
            f"token: {where}: expected 1 to {MAX_TOKEN_LENGTH} printable characters without spaces"
            f" around them, given {show(token)}"
        )
    found: str = token
    return found


def _check_spec(key: str, dtype: torch.dtype, shape: tuple[int, ...], source: str) -> None:
    """Raises CheckpointError for what cannot be vectors of a token; nothing is read before."""
    vectors = shape[0] if len(shape) == 2 else 1
    if len(shape) not in (1, 2) or not dtype.is_floating_point or 0 in shape:
        raise CheckpointError(
            f"{source}: {show(key)}: expected floats [C] or [K, C], found"
            f" {str(dtype).removeprefix('torch.')} {list(shape)}"
        )
    if vectors > MAX_VECTORS:
        raise CheckpointError(
            f"{source}: {show(key)}: expected at most {MAX_VECTORS} vectors, found {list(shape)}"
        )


def _placed(key: str, tensor: Tensor, widths: Mapping[str, int], source: str) -> tuple[str, Tensor]:
    """(the text encoder that vectors of this width are for, the vectors)."""
    part = _fitting(key, tensor.shape[-1], widths, source)
    return part, _vectors(key, tensor, source)


def _fitting(key: str, width: int, widths: Mapping[str, int], source: str) -> str:
    for part, own in widths.items():
        if own == width:
            return part
    raise CheckpointError(
        f"{source}: {show(key)}: expected vectors of {_expected(widths)}, found {width} numbers"
    )


def _expected(widths: Mapping[str, int]) -> str:
    return " or ".join(f"{width} numbers ({part})" for part, width in widths.items())


def _vectors(key: str, tensor: Tensor, source: str) -> Tensor:
    """[K, C] float32, finite."""
    found = tensor.detach().to("cpu", torch.float32).reshape(-1, tensor.shape[-1]).clone()
    if not torch.isfinite(found).all():
        raise CheckpointError(
            f"{source}: {show(key)}: expected finite numbers, found NaN or infinity"
        )
    return found


def _stem(path: Path) -> str:
    """A file's name as its token, where it is not one of those that say nothing."""
    return re.sub(r"\s+", " ", path.stem).strip()
