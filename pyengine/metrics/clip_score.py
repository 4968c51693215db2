"""How well pictures fit their texts, by a CLIP (Hessel et al. 2021, arXiv:2104.08718)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..errors import RequestError
from .checks import check_images, check_rows

if TYPE_CHECKING:
    from typing_extensions import Self


class TextsAndImages(Protocol):
    """A CLIP: embeddings of both kinds in one space."""

    def __call__(self, images: Tensor) -> Tensor:
        """[N, P] of uint8 [N, 3, H, W]."""

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """[N, P]."""


class CLIPScore:
    """The mean of 100 cos(image, text) over pictures and their texts, at least 0, as torchmetrics.

    (The paper clips each picture's cosine, and scales by 2.5.) Sums are float64.

    Args:
        model: embeds pictures when called and texts by `texts`; only over the same CLIP do scores
            compare.
    """

    def __init__(self, model: TextsAndImages):
        if not callable(model) or not callable(getattr(model, "texts", None)):
            raise RequestError(
                "model: expected a CLIP, which embeds pictures when called and has `texts`, given"
                f" {type(model).__name__}"
            )
        self.model = model
        self.reset()

    def update(self, images: Any, text: str | Sequence[str]) -> None:
        """Takes in pictures and their texts.

        Args:
            images: uint8 [N, 3, H, W], or one [3, H, W].
            text: a text for each, or one of one.
        """
        if getattr(images, "ndim", 0) == 3:
            images = images[None]
        images = check_images(images)
        texts = [text] if isinstance(text, str) else list(text)
        if len(texts) != len(images) or not all(isinstance(t, str) for t in texts):
            raise RequestError(
                f"text: expected a text for each of {len(images)} pictures, given {len(texts)}"
            )
        with torch.inference_mode():
            self.update_embeddings(self.model(images), self.model.texts(texts))

    def update_embeddings(self, images: Tensor, texts: Tensor) -> None:
        """Takes in what the CLIP said of pictures and of their texts.

        Args:
            images, texts: [N, P] each.
        """
        images, texts = check_rows("images", images).double(), check_rows("texts", texts).double()
        if images.shape != texts.shape:
            raise RequestError(
                f"texts: expected {list(images.shape)}, as the pictures' embeddings, given"
                f" {list(texts.shape)}"
            )
        scores = 100 * torch.nn.functional.cosine_similarity(images, texts)
        self.sum += float(scores.sum())
        self.count += len(scores)

    def compute(self) -> Tensor:
        """The score, a float64 scalar in 0..100. Raises RequestError before any picture."""
        if not self.count:
            raise RequestError("images: expected at least one picture, given 0")
        return torch.tensor(max(self.sum / self.count, 0.0), dtype=torch.float64)

    def reset(self) -> None:
        """Forgets all pictures."""
        self.sum, self.count = 0.0, 0

    def merge_state(self, other: "Self") -> None:
        """Takes in what the `other` score has seen, perhaps elsewhere."""
        if type(other) is not type(self):
            raise RequestError(
                f"other: expected a {type(self).__name__}, given {type(other).__name__}"
            )
        self.sum += other.sum
        self.count += other.count
