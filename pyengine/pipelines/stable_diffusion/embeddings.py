"""A call's texts and the embeddings that may stand in for them, checked together."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ...errors import RequestError
from ...jobs import checks
from ..prompt_weights import Weighted


@dataclass(frozen=True)
class Embeds:
    """What text encoders give for B prompts, or for pictures; None for what is not there.

    text, negative: [B, L, C] hidden states of prompts and negative prompts. pooled,
    negative_pooled: [B, P], SDXL's.
    """

    text: Tensor | None = None
    negative: Tensor | None = None
    pooled: Tensor | None = None
    negative_pooled: Tensor | None = None

    def repeated(self, times: int) -> "Embeds":
        """A row for each picture, those of a prompt together."""
        return Embeds(
            *(None if t is None else t.repeat_interleave(times, dim=0) for t in self.tensors())
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Embeds":
        return Embeds(*(None if t is None else t.to(device, dtype) for t in self.tensors()))

    def tensors(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True)
class Texts:
    """B prompts of a call: texts, or what was given in their place.

    prompts, negatives: [B]; None where embeddings were given, and for negatives where nothing was.
    prompts_2, negatives_2: SDXL's second encoder's; None: as the first's. loras:
    pipelines.loras.Uses of each, or () for none. weighted: how words are weighed, and the chunks
    of each; None: every text is one row of the text encoder.
    """

    batch: int
    prompts: list[str] | None = None
    negatives: list[str] | None = None
    prompts_2: list[str] | None = None
    negatives_2: list[str] | None = None
    given: Embeds = Embeds()
    loras: tuple[Any, ...] = ()
    weighted: Weighted | None = None

    def repeated(self, times: int) -> "Texts":
        """Each text `times` times."""

        def each(texts: list[str] | None) -> list[str] | None:
            return None if texts is None else [t for t in texts for _ in range(times)]

        return Texts(
            self.batch * times,
            each(self.prompts),
            each(self.negatives),
            each(self.prompts_2),
            each(self.negatives_2),
            self.given.repeated(times),
            self.loras,
            None if self.weighted is None else self.weighted.repeated(times),
        )

    @property
    def all(self) -> list[str]:
        """Every text, of all prompts and of both encoders."""
        own = self.prompts, self.negatives, self.prompts_2, self.negatives_2
        return [text for texts in own for text in texts or ()]

    @property
    def has_negative(self) -> bool:
        """Whether there is anything to guide away from but the empty prompt."""
        own = self.negatives, self.negatives_2, self.given.negative
        return any(part is not None for part in own)

    def emptied(self, embeds: Embeds) -> "Texts":
        """The same prompts, with what they gave, without negative ones: for the empty prompt's."""
        given = Embeds(embeds.text, pooled=embeds.pooled)
        return Texts(
            self.batch,
            self.prompts,
            prompts_2=self.prompts_2,
            given=given,
            loras=self.loras,
            weighted=self.weighted,
        )


@dataclass(frozen=True)
class Widths:
    """text: C of a model's hidden states; pooled: P, None for a model that has no pooled text."""

    text: int
    pooled: int | None = None

    def read(
        self,
        *,
        prompt: Any,
        negative_prompt: Any = None,
        prompt_2: Any = None,
        negative_prompt_2: Any = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
        pooled_prompt_embeds: Any = None,
        negative_pooled_prompt_embeds: Any = None,
    ) -> Texts:
        """The checked texts and embeddings of a call; raises RequestError that names the one that
        is missing, superfluous or of another shape.
        """
        _either("prompt_embeds", prompt_embeds, prompt=prompt, prompt_2=prompt_2)
        _either(
            "negative_prompt_embeds",
            negative_prompt_embeds,
            negative_prompt=negative_prompt,
            negative_prompt_2=negative_prompt_2,
        )
        prompts = None
        if prompt_embeds is None:
            if prompt is None:
                raise checks.refuse("prompt", "a text, a list of texts or prompt_embeds", prompt)
            prompts = checks.texts("prompt", prompt)
            batch = len(prompts)
        else:
            batch = self._rows(prompt_embeds)
        text = self._text("prompt_embeds", prompt_embeds, batch)
        negative = self._text("negative_prompt_embeds", negative_prompt_embeds, batch)
        if text is not None and negative is not None and text.shape != negative.shape:
            raise checks.refuse(
                "negative_prompt_embeds",
                f"the shape of prompt_embeds, {list(text.shape)}",
                list(negative.shape),
            )
        given = Embeds(
            text,
            negative,
            self._pooled("pooled_prompt_embeds", pooled_prompt_embeds, batch, text),
            self._pooled(
                "negative_pooled_prompt_embeds", negative_pooled_prompt_embeds, batch, negative
            ),
        )

        def optional(name: str, value: Any) -> list[str] | None:
            return None if value is None else checks.texts(name, value, batch)

        return Texts(
            batch,
            prompts,
            optional("negative_prompt", negative_prompt),
            optional("prompt_2", prompt_2),
            optional("negative_prompt_2", negative_prompt_2),
            given,
        )

    def _rows(self, embeds: Any) -> int:
        self._check("prompt_embeds", embeds, (None, None, self.text))
        return len(embeds)

    def _text(self, name: str, value: Any, batch: int) -> Tensor | None:
        return None if value is None else self._check(name, value, (batch, None, self.text))

    def _pooled(self, name: str, value: Any, batch: int, text: Tensor | None) -> Tensor | None:
        """text: the hidden states that these belong to."""
        if value is not None:
            return self._check(name, value, (batch, self.pooled))
        if text is not None and self.pooled is not None:
            raise RequestError(f"{name}: expected with {name.replace('pooled_', '')}, given none")
        return None

    @staticmethod
    def _check(name: str, value: Any, shape: tuple[int | None, ...]) -> Tensor:
        """`value`, a finite float tensor of `shape`; None in it: any size from 1 on."""
        wanted = f"a float tensor [{', '.join('n' if s is None else str(s) for s in shape)}]"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise checks.refuse(name, wanted, getattr(value, "dtype", type(value).__name__))
        fits = value.dim() == len(shape) and all(
            n == want or (want is None and n > 0)
            for n, want in zip(value.shape, shape, strict=True)
        )
        if not fits or len(value) > checks.MAX_PICTURES:
            raise checks.refuse(name, wanted, list(value.shape))
        if not torch.isfinite(value).all():
            raise checks.refuse(name, "finite values", "NaN or infinity")
        return value


def _either(name: str, embeds: Any, **texts: Any) -> None:
    for text, value in texts.items():
        if embeds is not None and value is not None:
            raise RequestError(f"{name}: expected these or {text}, given both")


def joined(name: str, negative: Tensor | None, rows: Tensor | None) -> Tensor:
    """Negative rows first, where there are any; raises RequestError for texts of two lengths."""
    assert rows is not None
    if negative is None:
        return rows
    if negative.shape != rows.shape:
        raise checks.refuse(
            f"negative_{name}",
            f"the shape of the prompts' embeddings, {list(rows.shape)}",
            list(negative.shape),
        )
    return torch.cat([negative, rows])
