"""What every model shares: building on the meta device, loading, and the shape of its answers."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from ..errors import RequestError
from ..guard import inference
from ..ops import Arena
from ..weights import TIERS, load_json, load_module, open_weights
from ..weights.config import check_ignored, ignoring
from ..weights.files import allowed_roots

#: What transformers 4 and 5 save with every config, whatever the model: generation, bookkeeping,
#: training. None of it takes part in running one.
TRANSFORMERS_KEYS = frozenset(
    """
    add_cross_attention architectures attn_implementation bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label is_decoder is_encoder_decoder label2id length_penalty max_length
    min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache
    """.split()  # noqa: SIM905
)


#: transformers' names of activations, and what the linear layer calls those that it does itself.
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "silu": "silu", "swish": "silu"}


@dataclasses.dataclass
class Output:
    """Base of the dataclasses that models return: fields by name, or by position as in a tuple."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return tuple(v for v in values if v is not None)

    def __getitem__(self, index: int) -> Any:
        return self.to_tuple()[index]


class Config(Protocol):
    """A config dataclass of a model."""

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> Any:
        """From the parsed config.json; raises ConfigError that lists every problem."""


class Model(nn.Module):
    """A network for inference, built from a config dataclass and filled from a checkpoint."""

    config_class: ClassVar[type[Config]]
    #: fnmatch patterns of tensors that may come on top of the model's own and take no part in it.
    harmless_extra: ClassVar[tuple[str, ...]] = ()
    #: {other name: name} of tensors that a checkpoint may hold under either name, or under both.
    aliases: ClassVar[Mapping[str, str]] = {}
    #: The TIERS that load_module's `weights` can be.
    tiers: ClassVar[tuple[str, ...]] = ()
    #: fnmatch patterns of the layers whose weights they store in 8 bits: linear ones, and with
    #: "int8" and quantizes_inputs convolutions.
    quantized_layers: ClassVar[tuple[str, ...]] = ()
    #: Whether these layers then round what they read, too.
    quantizes_inputs: ClassVar[bool] = False
    #: Whether its activations (ReLU, tanh), or norms that are folded at load, may make finite
    #: pictures of weights with NaN or infinity: these are then refused as they are read.
    hides_infinity: ClassVar[bool] = False

    def __init__(self, config: Any):
        super().__init__()
        self.config = config
        #: Where the activations of a call lie on the CPU; a pipeline's models share one.
        self.arena = Arena()

    @classmethod
    def from_config(cls, config: Any) -> "Model":
        """The model on the meta device: names and shapes, no memory.

        config: a `config_class` instance, or a dict as parsed from config.json.
        """
        if isinstance(config, dict):
            config = cls.config_class.from_dict(config)
        return cls(config).eval()

    @classmethod
    @inference
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        weights: str | None = None,
        ignore_config_keys: Sequence[str] = (),
    ) -> "Model":
        """The model saved in a folder by diffusers or transformers.

        Args:
            folder: with config.json and safetensors.
            subfolder: of it, where the model is a checkpoint's part.
            variant: "fp16" reads *.fp16.safetensors.
            dtype: float32 (unless told), float16 or bfloat16: of activations and results; what is
                stored otherwise is converted. Only weights stored in 16 bits stay so under float32
                on the CPU, whose kernels widen them, exactly, as they read.
            device: where it computes: "cpu", "cuda".
            weights: one of `tiers` rounds the layers that `quantized_layers` names to 8 bits.
            ignore_config_keys: keys of config.json that may be left unread although they are
                unknown.

        Raises:
            ConfigError, CheckpointError: for anything that is not such a model.
            RequestError: for a tier that it has not.
        """
        with open_weights(folder, subfolder=subfolder, variant=variant) as source:
            place = Path(folder) / subfolder if subfolder else Path(folder)
            path = place / "config.json"
            data = load_json(path, roots=allowed_roots(Path(folder)))
            data = ignoring(data, check_ignored(ignore_config_keys))
            config = cls.config_class.from_dict(data, str(path))
            return load_module(
                cls.from_config(config), source, dtype=dtype or torch.float32, device=device,
                weights=weights,
            )  # fmt: skip

    def pack(self) -> None:
        """Arranges all weights for the ops. load_module has done so; again, it does nothing."""
        for module in list(self.modules()):
            pack: Callable[[], None] | None = getattr(module, "pack", None)
            if module is not self and pack is not None:
                pack()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "Model":
        """What .to, .half, .cuda and their kin come down to: nothing where all is so already (in
        torch.channels_last too, which is how models compute anyway).

        Raises RequestError for another device or dtype: packed weights fit one.
        """
        if any(p.is_meta for p in self.parameters()):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
            return self
        kind = self.dtype
        after = fn(torch.empty(0, dtype=kind, device=self.device))
        if after.dtype != kind or after.device != self.device:
            raise RequestError(
                f"{type(self).__name__}: its weights lie packed for {self.device} in {kind}; load"
                " it again for another: from_pretrained(..., device=..., dtype=...)"
            )
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and results; weights that are widened when used may be narrower."""
        return next(
            p.dtype
            for module in self.modules()
            for name, p in module.named_parameters(recurse=False)
            if name not in getattr(module, "WIDENED", ())
        )

    @property
    def weights(self) -> str | None:
        """The tier of the layers that `quantized_layers` names; None for what was stored."""
        scaled = (m for m in self.modules() if getattr(m, "weight_scale", None) is not None)
        held = {module.weight.dtype for module in scaled}
        return next((name for name, dtype in TIERS.items() if dtype in held), None)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def to_nchw(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] -> [N, C, H, W], contiguous, always in memory of its own."""
    return x.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)


def check_levels(problems: list[str], count: int, **lists: Any) -> None:
    """Adds a problem for every list (a single value passes) that has not `count` items."""
    for name, value in lists.items():
        if isinstance(value, tuple) and len(value) != count:
            problems.append(f"{name} has {len(value)} items, expected {count}, one per block")


def raise_problems(problems: list[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))
