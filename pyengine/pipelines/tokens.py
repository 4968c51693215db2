"""What the pipelines of token models share: a call's arguments, the run around the drawing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from ..cuda import Record
from ..decoding.request import CALLBACK_TENSORS, SAMPLING, Sampling, TokenRequest
from ..finite import check_finite
from ..jobs import checks
from ..jobs.job import JobT
from ..jobs.output import Report, TokenOutput
from ..models.base import Model
from .arguments import check, checked
from .base import NetworkPipeline
from .keywords import refuse_others

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar


@dataclass(frozen=True)
class TokenDefaults(Sampling):
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more.
    Bounds that are not here are those of the call's arguments.
    """

    guidance_scale: float = 1.0
    decoding: Literal["sequential", "jacobi"] = "sequential"
    window: int = 8


if TYPE_CHECKING:
    TokenRequestT = TypeVar("TokenRequestT", bound=TokenRequest, default=Any)
else:
    TokenRequestT = TypeVar("TokenRequestT")


class TokenPipeline(NetworkPipeline[TokenRequestT, JobT]):
    """Base of the pipelines that draw a picture's tokens and decode them.

    Made by `pyengine.from_pretrained`. One call runs at a time; others wait.
    A subclass has `default_size` and `_decode`, and what a Pipeline has.
    """

    graphs: Any

    defaults_class: ClassVar[type[TokenDefaults]] = TokenDefaults
    #: How the report calls the way that tokens are drawn.
    sampler: ClassVar[str] = "autoregressive"
    #: Whether a call needs a prompt.
    takes_prompt: ClassVar[bool] = True

    def __init__(self, model: Model, checkpoint: Any, source: str, defaults: TokenDefaults):
        """model: the one that predicts tokens. source: the path or Hub id it was loaded from."""
        super().__init__()
        self.model, self.checkpoint = model, checkpoint
        self.source, self.defaults = source, defaults
        #: CUDA graphs of what a loop does over and over; None elsewhere.
        self.graphs = None
        if model.device.type == "cuda":
            self.use_graphs()

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        raise NotImplementedError

    # --- a subclass's part ------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> TokenOutput:
        """Pictures, one per prompt and num_images_per_prompt; the arguments are the subclass's."""
        raise NotImplementedError

    @property
    def network(self) -> Model:
        return self.model

    @property
    def components(self) -> dict[str, Any]:
        """{name: part}: the model, and what else the checkpoint brings."""
        parts = getattr(self, "parts", None)
        if parts is not None:
            return {name: value for name, value in vars(parts).items() if value is not None}
        found = {"model": self.model, "tokenizer": getattr(self, "tokenizer", None)}
        return {name: value for name, value in found.items() if value is not None}

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        """Pictures of `output_type`, one of "pil", "np" and "pt", for tokens [N, h, w]."""
        raise NotImplementedError

    # --- a call's arguments -----------------------------------------------------------------------

    def _request(
        self, *, num_images_per_prompt: Any, size: tuple[int, int], seed: Any, generator: Any,
        callback_on_step_end: Any, callback_on_step_end_tensor_inputs: Any, others: dict[str, Any],
        return_dict: Any, timeout: Any, run: Any, prompt: Any = None, negative_prompt: Any = None,
        **simple: Any,
    ) -> TokenRequest:  # fmt: skip
        """The arguments that all have, checked. size: (height, width). others: those that the
        model has not, which must ask for nothing. simple: those that are checked by the table.
        """
        # Before arguments that the model has not: of two mistakes this is the one to hear of.
        limits = {name: simple.pop(name, None) for name in SAMPLING}
        sampling = Sampling(**checked(limits, self.defaults))
        refuse_others(others, self.__call__)
        prompts: list[str | None] = [None]
        if self.takes_prompt:
            prompts = [*checks.texts("prompt", prompt)]
        negatives = None
        if negative_prompt is not None:
            negatives = checks.texts("negative_prompt", negative_prompt, len(prompts))
        per_prompt = check("num_images_per_prompt", num_images_per_prompt)
        count = len(prompts) * per_prompt
        checks.check_total(*size, count)
        seeds, generators = checks.seeds_and_generators(seed, generator, count, self.device)
        own = dict.fromkeys(("guidance_scale", "decoding", "window"))
        values = checked(own | simple, self.defaults)
        return TokenRequest(
            prompts=prompts,
            negatives=negatives,
            per_prompt=per_prompt,
            height=size[0],
            width=size[1],
            sampling=sampling,
            seeds=seeds,
            generators=generators,
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **values,
            **checks.manners(run, timeout, return_dict),
        )

    def _check_size(self, height: Any, width: Any) -> None:
        """For a model that draws `default_size` only."""
        for name, given, own in zip(
            ("height", "width"), (height, width), self.default_size, strict=True
        ):
            if given is not None and checks.integer(name, given, 1, checks.MAX_SIDE) != own:
                raise checks.refuse(name, f"{own}, the model's only one", given)

    # --- the run ----------------------------------------------------------------------------------

    def use_graphs(self, record: Record | None = None) -> None:
        """What the loop does is a CUDA graph from now on. record: given for tests."""
        raise NotImplementedError

    def _release(self) -> None:
        if self.graphs is not None:
            self.graphs.clear()

    def _pictures(self, decoded: Tensor) -> Tensor:
        """`decoded`, which raises NotFiniteError if it is no pictures."""
        check_finite(f"{self.source}: the decoder of tokens", decoded)
        return decoded

    def _report(self, r: TokenRequestT) -> Report:
        return Report(
            model=self.source,
            pipeline=self.checkpoint.pipeline_class,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=self.sampler,
            height=r.height,
            width=r.width,
            guidance_scale=r.guidance_scale,
            weights=self.model.weights,
        )

    def _images(self, tokens: Tensor, output_type: str, report: Report) -> Any:
        """What a call gives for tokens [N, h, w]."""
        with report.stage("decode", self.device):
            return tokens if output_type == "latent" else self._decode(tokens, output_type)

    def _call_back(self, r: TokenRequest, step: int, timestep: int, tokens: Tensor) -> Tensor:
        """The tokens after the callback has seen them; on StopSampling, as they were."""
        answer = checks.call_back(self, r, step, timestep, {"tokens": tokens})
        new = answer.get("tokens", tokens)
        shaped = isinstance(new, Tensor) and new.shape == tokens.shape
        if not shaped or new.is_floating_point():
            raise checks.refuse("callback_on_step_end: tokens",
                                f"an integer tensor {list(tokens.shape)} back",
                                getattr(new, "shape", new))  # fmt: skip
        taken: Tensor = new.to(tokens.device, torch.int64)
        return taken
