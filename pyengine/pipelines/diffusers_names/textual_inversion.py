"""load_textual_inversion and unload_textual_inversion, as diffusers' pipelines have them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...adapters import open_lora
from ...adapters.textual_inversion import Learnt, read_file, read_tensors
from ...cuda import within_memory
from ...errors import CheckpointError, RequestError
from ...jobs import checks
from ...jobs.output import issue
from ...jobs.runs import Run, Runs
from ...tokenizer import ClipTokenizer, LearntToken, vector_names
from ...weights.files import allowed_roots, check_inside, list_folder
from ...weights.text import did_you_mean, listing, show

#: What diffusers calls the file in a folder or a repository.
FILE_NAMES = ("learned_embeds.safetensors",)
#: Keywords that find the file: diffusers' name, and open_lora's.
_FINDS = {
    "weight_name": "weight_name", "subfolder": "subfolder", "revision": "revision",
    "cache_dir": "cache_dir", "hf_token": "token", "local_files_only": "local_files_only",
    "force_download": "force_download",
}  # fmt: skip
#: Those that cost or change nothing here.
_ACCEPTED = ("use_safetensors", "proxies", "mirror", "user_agent")
_PARTS = ("text_encoder", "text_encoder_2")


class TextualInversionNames:
    """Base of the pipelines whose tokenizers learn tokens.

    What is learnt belongs to the tokenizers: pipelines that share them (from_pipe) share it.
    """

    parts: Any
    device: Any
    _runs: Runs
    _embeddings_dir: Path | None = None
    _of_folder: tuple[str, ...] = ()

    # --- diffusers' -------------------------------------------------------------------------------

    def load_textual_inversion(
        self,
        pretrained_model_name_or_path: Any,
        token: str | Sequence[str] | None = None,
        tokenizer: ClipTokenizer | None = None,
        text_encoder: Any = None,
        **where: Any,
    ) -> list[str]:
        """Learns tokens that prompts and negative prompts then name; returns them.

        pretrained_model_name_or_path: a .safetensors file, a folder with one
        (learned_embeds.safetensors), a Hub id, tensors by name, one tensor [C] or [K, C], or a list
        of these. token: its name in prompts, in place of the file's own, which else is that of the
        tensor or of the file; a list of as many. Of a file with several tokens, or with a tensor of
        several vectors, a list names each. tokenizer, text_encoder: the one of the two of SDXL that
        learns; unless told those whose width fits, the first before the second. where: weight_name,
        subfolder, revision, cache_dir, hf_token, local_files_only, force_download.

        Raises CheckpointError that names the tensor for a width that no text encoder has, and for
        what is no file of embeddings; RequestError for a token that there is already.
        """
        learnt = self._read_inversions(
            pretrained_model_name_or_path, token, self._widths_of(tokenizer, text_encoder), where
        )
        self._learn(learnt)
        return [one.token for one in learnt]

    def unload_textual_inversion(
        self,
        tokens: str | Sequence[str] | None = None,
        tokenizer: ClipTokenizer | None = None,
        text_encoder: Any = None,
    ) -> None:
        """Forgets tokens, all unless told. Pictures have the bits that they had before.

        tokenizer, text_encoder: of which one; both of SDXL unless told.
        """
        own = self._tokenizers()
        parts = list(self._widths_of(tokenizer, text_encoder))
        known = [t for part in parts for t in own[part].learnt]
        wanted = known if tokens is None else [tokens] if isinstance(tokens, str) else list(tokens)
        unknown = [t for t in wanted if t not in known]
        if unknown:
            raise RequestError(
                f"tokens: {show(unknown[0])} is not loaded; there are"
                f" {listing(map(show, dict.fromkeys(known)), 8) or 'none'}"
                f"{did_you_mean(str(unknown[0]), known)}"
            )
        with self._runs.begin(Run(), self.device):
            for part in parts:
                left = {t: v for t, v in own[part].learnt.items() if t not in wanted}
                if len(left) < len(own[part].learnt):
                    own[part].learn(left)

    # --- ours -------------------------------------------------------------------------------------

    @property
    def embeddings_dir(self) -> str | None:
        """A folder of textual inversions, each a token that is called as its file, without
        .safetensors; None for none. Those that do not fit the model are left out with a warning.
        """
        return None if self._embeddings_dir is None else str(self._embeddings_dir)

    @embeddings_dir.setter
    def embeddings_dir(self, value: Any) -> None:
        if value is not None and not (
            isinstance(value, str | os.PathLike) and os.path.isdir(os.path.expanduser(value))
        ):
            raise checks.refuse("embeddings_dir", "a folder of .safetensors files", value)
        old = [
            t
            for t in self._of_folder
            if any(t in own.learnt for own in self._tokenizers().values())
        ]
        if old:
            self.unload_textual_inversion(old)
        self._embeddings_dir, self._of_folder = None, ()
        if value is None:
            return
        folder, found, left_out = Path(os.path.expanduser(value)), [], []
        ends = ".safetensors"
        for name in (n for n in list_folder(folder) if n.endswith(ends)):
            try:
                check_inside(folder / name, allowed_roots(folder))
                own = self._read_inversions(
                    folder / name, name.removesuffix(ends), self._widths_of(None, None), {}
                )
                self._check_unknown(own)
            except (CheckpointError, RequestError) as e:
                left_out.append(f"embeddings_dir: left out: {e}")
            else:
                found += own
        self._learn(found)
        self._embeddings_dir, self._of_folder = folder, tuple(one.token for one in found)
        issue(left_out)

    # --- within -----------------------------------------------------------------------------------

    def _tokenizers(self) -> dict[str, ClipTokenizer]:
        """By text encoder."""
        named = self.parts.named()
        ends = ((part, part.replace("text_encoder", "tokenizer")) for part in _PARTS)
        return {part: named[own] for part, own in ends if part in named}

    def _widths_of(self, tokenizer: Any, text_encoder: Any) -> dict[str, int]:
        """Widths of the text encoders that are meant, by part: all, or the one that is given."""
        named, own = self.parts.named(), self._tokenizers()
        found = {part: named[part].config.hidden_size for part in own}
        for name, given, parts in (
            ("tokenizer", tokenizer, {p: own[p] for p in own}),
            ("text_encoder", text_encoder, {p: named[p] for p in own}),
        ):
            if given is None:
                continue
            same = [p for p, value in parts.items() if value is given]
            if not same or same[0] not in found:
                raise RequestError(
                    f"{name}: expected one of this pipeline's, the same as the other"
                    f" argument's, given {show(type(given).__name__)}"
                )
            found = {same[0]: found[same[0]]}
        return found

    def _read_inversions(
        self, given: Any, token: Any, widths: Mapping[str, int], where: Mapping[str, Any]
    ) -> list[Learnt]:
        unknown = sorted(set(where) - {*_FINDS, *_ACCEPTED})
        if unknown:
            raise RequestError(
                f"load_textual_inversion: {show(unknown[0])}: expected some of"
                f" {', '.join(_FINDS)}{did_you_mean(unknown[0], _FINDS)}"
            )
        options = {own: where[name] for name, own in _FINDS.items() if name in where}
        items = list(given) if isinstance(given, list | tuple) else [given]
        tokens = _names(token)
        if not items:
            raise checks.refuse("pretrained_model_name_or_path", "at least one of them", given)
        each: list[list[str] | None] = [None] * len(items)
        if len(items) == 1:
            each = [tokens]
        elif tokens is not None:
            if len(tokens) != len(items):
                raise RequestError(
                    f"token: expected {len(items)} names, one for each file, given {len(tokens)}"
                )
            each = [[name] for name in tokens]
        return [
            one
            for item, own in zip(items, each, strict=True)
            for one in _read_one(item, own, widths, options)
        ]

    def _check_unknown(self, learnt: Sequence[Learnt]) -> None:
        """Raises RequestError for a token that a tokenizer knows, or that comes twice."""
        own, seen = self._tokenizers(), set()
        for one in learnt:
            for part, vectors in one.vectors.items():
                for name in vector_names(one.token, len(vectors)):
                    if name in own[part].learnt:
                        raise RequestError(
                            f"token: {show(name)} is loaded already; unload it first, or name this"
                            " one otherwise"
                        )
                    if own[part].knows(name):
                        raise RequestError(
                            f"token: {show(name)} is in the vocabulary of this model's tokenizer:"
                            f" expected another name, such as {show(f'<{one.token}>')}"
                        )
                    if (part, name.lower()) in seen:
                        raise RequestError(
                            f"token: expected each name once, given {show(name)} twice"
                        )
                    seen.add((part, name.lower()))

    def _learn(self, learnt: Sequence[Learnt]) -> None:
        with self._runs.begin(Run(), self.device):
            self._check_unknown(learnt)
            for part, tokenizer in self._tokenizers().items():
                new = {
                    one.token: LearntToken(one.vectors[part], one.sha256)
                    for one in learnt
                    if part in one.vectors
                }
                if new:
                    tokenizer.learn({**tokenizer.learnt, **new})

    def _learnt_in(self, texts: Sequence[str]) -> dict[str, str]:
        """{token: SHA-256 of its file} of the learnt tokens that texts name."""
        return {
            token: tokenizer.learnt[token].sha256
            for tokenizer in self._tokenizers().values()
            if tokenizer.learnt
            for text in dict.fromkeys(texts)
            for token in tokenizer.learnt_in(text)
        }


def _names(token: Any) -> list[str] | None:
    if token is None or isinstance(token, str):
        return None if token is None else [token]
    if not isinstance(token, list | tuple) or not token:
        raise checks.refuse("token", "a name, a list of names or None", token)
    if all(name is None for name in token):
        return None
    return list(token)


def _read_one(
    given: Any, tokens: list[str] | None, widths: Mapping[str, int], options: Mapping[str, Any]
) -> list[Learnt]:
    if isinstance(given, Tensor):
        return read_tensors({"*": given}, tokens, widths, "tensor")
    if isinstance(given, Mapping):
        name = given.get("name") if isinstance(given.get("name"), str) else None
        inner = given.get("string_to_param")
        tensors = dict(inner) if isinstance(inner, Mapping) else dict(given)
        return read_tensors(tensors, tokens, widths, "tensors", name)

    def read() -> list[Learnt]:
        with open_lora(
            given, usual=FILE_NAMES, what="pretrained_model_name_or_path", **options
        ) as file:
            return read_file(file, tokens, widths)

    return within_memory(read, "a smaller file would help")
