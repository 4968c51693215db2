"""ImageGPT: pictures drawn pixel by pixel, from nothing or from their upper rows.

Chen et al. 2020, "Generative Pretraining from Pixels".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import images as pictures
from ... import ops
from ...decoding.decoder import Decoder
from ...decoding.request import TokenRequest
from ...errors import ConfigError
from ...guard import inference
from ...jobs.output import TokenOutput
from ...jobs.runs import Run
from ...models import ImageGPT
from ...models.tokens.kv_cache import KVCache
from ...weights import read_config
from ..autoregressive import AutoregressivePipeline
from ..prefix import read_prefix
from ..tokens import TokenDefaults

_SIDE = {"min": 1, "max": 4096}


@dataclass(frozen=True)
class PictureSize:
    height: int = field(metadata=_SIDE)
    width: int = field(metadata=_SIDE)


@dataclass(frozen=True)
class ImageGPTPictures:
    """preprocessor_config.json: what the tokens mean. clusters: [K, 3] colours in -1..1."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset(
        """
        crop_size data_format default_to_square device disable_grouping do_center_crop
        do_color_quantize do_convert_rgb do_normalize do_pad do_rescale do_resize
        feature_extractor_type image_mean image_processor_type image_seq_length image_std
        input_data_format pad_size processor_class resample rescale_factor return_tensors
        """.split()  # noqa: SIM905
    )

    clusters: tuple[tuple[float, float, float], ...] = field(
        metadata={"min": -1.01, "max": 1.01, "max_items": 1 << 16}
    )
    size: int | PictureSize = field(default=32, metadata=_SIDE)

    @classmethod
    def from_dict(
        cls, d: dict[str, Any], where: str = "preprocessor_config.json"
    ) -> "ImageGPTPictures":
        """From the parsed JSON; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        s = self.size
        return (s, s) if isinstance(s, int) else (s.height, s.width)


class ImageGPTPipeline(AutoregressivePipeline):
    """Pictures of an ImageGPT checkpoint; see `__call__`."""

    takes_prompt = False
    model: ImageGPT

    def __init__(self, model: ImageGPT, look: ImageGPTPictures, checkpoint: Any, source: str,
                 defaults: TokenDefaults):  # fmt: skip
        super().__init__(model, checkpoint, source, defaults)
        self.look = look
        self.clusters = torch.tensor(look.clusters, dtype=torch.float32, device=self.device)

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels, the only size that the model draws."""
        return self.look.grid

    @inference
    def __call__(
        self,
        *,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prefix: Any = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        decoding: str | None = None,
        window: int | None = None,
        output_type: str = "pil",
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("tokens",),
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> TokenOutput:
        """Pictures from nothing, or completed from their first pixels.

        Args:
            num_images_per_prompt: how many pictures.
            height, width: pixels, the model's own; anything else is refused.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            generator: one per picture, or one from which the batch is drawn.
            prefix: clusters of the first pixels in reading order, [n] for all or [N, n], or a
                picture of the upper rows, of the model's width.
            temperature: 0 draws the likeliest token every time; 1 unless the model says otherwise.
            top_k: as many of the likeliest may be drawn; 0: all.
            top_p: so may the likeliest that reach this probability together; 1: all.
            min_p: so may those with at least this share of the likeliest one's probability; 0: all.
            decoding: "sequential" reads the model once for every token, "jacobi" for a window of so
                many at once, of which those that were guessed right are drawn, and one more: the
                same tokens in fewer passes (report.tokens_per_pass); "jacobi-gumbel" draws others
                of the same distribution, in fewer still where the model is unsure.
            window: tokens that a pass of the latter two reads; the model's own number unless told.
            output_type: "pil", "np", "pt" (0 to 1) or "latent": the tokens as images.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"tokens": [N, h * w]}) after
                every pass, -1 where none is drawn yet; it may return each picture's last changed.
            callback_on_step_end_tensor_inputs: what of these it is given: tokens.
            progress: a bar on standard error; None shows one on a terminal.
            return_dict: False gives a tuple in place of a TokenOutput.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        Returns:
            The pictures, with their seeds and a report; of a token model its tokens, too.

        Raises:
            RequestError: that names the argument.
            BusyError: where `timeout` is over first.
            NotFiniteError: where the network's numbers are not finite.
        """
        output: TokenOutput = self._call(locals())
        return output

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a picture in tokens, which are its pixels."""
        return self.default_size

    def _new_decoder(self) -> Decoder:
        c, (height, width) = self.model.config, self.default_size
        fill = c.eos_token_id if c.pad_token_id is None else c.pad_token_id
        return Decoder(
            _Reader(self.model), self.source, self.device, length=height * width,
            vocab_size=c.codes, limit=c.n_positions, end=c.eos_token_id, fill=fill or 0,
        )  # fmt: skip

    def _texts(self, r: TokenRequest) -> list[list[int]]:
        return [[self.model.config.vocab_size - 1]] * r.count

    def _prefix(self, prefix: Any, r: TokenRequest) -> Tensor:
        return read_prefix(prefix, r, self.grid, 1, self.model.config.codes, self.quantise)

    def quantise(self, x: Tensor) -> Tensor:
        """[N, h * w] int64: the nearest cluster of every pixel of x [N, 3, h, w] in 0..1."""
        pixels = 2 * x.to(self.device).permute(0, 2, 3, 1).flatten(1, 2) - 1
        return ops.vq_argmin(pixels, self.clusters)

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        # Pixels that were never drawn are mid-grey.
        colours = ops.vq_decode(tokens.clamp(min=0), self.clusters)
        colours = colours.masked_fill((tokens < 0)[..., None], 0.0)
        return pictures.from_tensor(self._pictures(colours.permute(0, 3, 1, 2)), output_type)


class _Reader:
    """A picture's pixels as tokens behind a text of one id, which begins a picture."""

    def __init__(self, model: ImageGPT):
        self.model, self.cache = model, model.cache

    def read_text(self, ids: Tensor, cache: KVCache, ends: Tensor | None = None) -> Tensor:
        return self.model.next_logits(ids, cache)

    def read_tokens(self, tokens: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        return self.model.next_logits(tokens, cache, every)


def check_pictures(model: Any, look: ImageGPTPictures) -> None:
    """Raises ConfigError where the clusters or the size do not fit the model's config."""
    height, width = look.grid
    problems = []
    if len(look.clusters) != model.codes:
        problems.append(
            f"preprocessor_config.json: clusters has {len(look.clusters)} colours, but vocab_size"
            f" {model.vocab_size} means {model.codes}"
        )
    if height * width > model.n_positions:
        problems.append(
            f"preprocessor_config.json: size {height}x{width} takes {height * width} positions,"
            f" but n_positions is {model.n_positions}"
        )
    if problems:
        raise ConfigError("; ".join(problems))
