"""One safetensors file in the original layout of Stable Diffusion 1.x, 2.x or XL."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError
from .checkpoint import Checkpoint, FolderCheckpoint, tokenizer_files_in
from .header import SafetensorsFile
from .infer import (
    Shapes,
    added_conditioning,
    clip_config,
    openclip_config,
    unet_config,
    vae_config,
)
from .names import HARMLESS, ORIGINAL_HARMLESS, matcher, other_kind
from .original import Part, Target, hf_clip_target, openclip_targets, unet_target, vae_target
from .source import Entry, MappedSource, TensorSource
from .text import listing, show

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP_1, OPENCLIP_2 = "cond_stage_model.transformer.", "cond_stage_model.model."
CLIP_XL, OPENCLIP_XL = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
REFINER = "conditioner.embedders.0.model."

# Hub repositories whose cached tokenizer is CLIP's: (repository, folder in it).
TOKENIZER_REPOS = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""),
)


class Original(NamedTuple):
    """What the tensors of a kind of file do not say; the values are those of its published configs.

    sizes: numbers that the U-Net is told besides the pooled text. lacks_optional: whether the
    layout's optional parts are not in it.
    """

    pipeline_class: str
    scaling_factor: float
    picture: int  # pixels a side
    sampler: str
    options: dict[str, bool]
    sizes: int = 0
    lacks_optional: bool = False


FAMILIES = {
    "sd1": Original("StableDiffusionPipeline", 0.18215, 512, "PNDMScheduler", {}),
    "sd2": Original("StableDiffusionPipeline", 0.18215, 768, "DDIMScheduler", {}),
    "sdxl": Original(
        "StableDiffusionXLPipeline",
        0.13025,
        1024,
        "EulerDiscreteScheduler",
        {"force_zeros_for_empty_prompt": True},
        6,
    ),
    "refiner": Original(
        "StableDiffusionXLImg2ImgPipeline",
        0.13025,
        1024,
        "EulerDiscreteScheduler",
        {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
        5,
        True,
    ),
}
#: Where each family's text encoders are.
TEXT = {
    "sd1": {"text_encoder": CLIP_1},
    "sd2": {"text_encoder": OPENCLIP_2},
    "sdxl": {"text_encoder": CLIP_XL, "text_encoder_2": OPENCLIP_XL},
    "refiner": {"text_encoder_2": REFINER},
}


class SingleFileCheckpoint(Checkpoint):
    """A file as CompVis' and Stability's own code saved it; configs come from its shapes.

    prediction_type: "epsilon" or "v_prediction" where the file's own is known; else see
    `guess_prediction`. `family` is one of FAMILIES. config: a folder in diffusers' layout whose
    configs and tokenizers are taken in place of what the shapes say and what lies beside the file.

    Raises CheckpointError for other models, for missing parts and for tensors of no part, all of
    them listed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prediction_type: str | None = None,
        config: FolderCheckpoint | None = None,
    ):
        if prediction_type not in (None, *PREDICTION_TYPES):
            raise CheckpointError(
                f"prediction_type {show(prediction_type)} is none of {listing(PREDICTION_TYPES)}"
            )
        self.path, self.source = Path(path), str(path)
        self._file = SafetensorsFile(path)
        self._source = TensorSource([self._file], self.source)
        self._shapes = {name: e.shape for name, e in self._file.entries.items()}
        self.family = find_family(self._shapes, self.source)
        facts = FAMILIES[self.family]
        self.pipeline_class = facts.pipeline_class
        lacking = self.layout.optional if facts.lacks_optional else ()
        self.components = tuple(name for name in self.layout.parts if name not in lacking)
        self.options = dict(facts.options)
        self.prediction_type = prediction_type or self.guess_prediction()
        self._configs = self._infer_configs(facts)
        self._config = config
        if config is not None:
            self._take_configs(config, prediction_type)
        self._tables: dict[str, dict[str, Entry]] = {name: {} for name in self._prefixes()}
        self._fill_tables()

    def _take_configs(self, config: FolderCheckpoint, prediction_type: str | None) -> None:
        if set(config.components) != set(self.components):
            raise CheckpointError(
                f"{self.source}: config: expected one of a {self.pipeline_class}, with"
                f" {listing(self.components)}; {config.source} is a {config.pipeline_class} with"
                f" {listing(config.components)}"
            )
        self.pipeline_class, self.options = config.pipeline_class, dict(config.options)
        self._configs = {name: config.config(name) for name in self._configs}
        if prediction_type is not None:
            self._configs["scheduler"]["prediction_type"] = prediction_type
        self.prediction_type = self._configs["scheduler"].get("prediction_type", "epsilon")

    def guess_prediction(self) -> str:
        """What the U-Net predicts: as the file's metadata or marker tensors say; without them
        v_prediction for SD 2.x, whose tensors are the same either way, and epsilon for others.
        SD 2 base, which predicts epsilon, is known by its 875,000 training steps if it says so.
        """
        said = self._file.metadata.get("modelspec.prediction_type", "").lower()
        if said in ("v", "v_prediction", "epsilon"):
            return "v_prediction" if said.startswith("v") else "epsilon"
        if "v_pred" in self._shapes:
            return "v_prediction"
        if self.family != "sd2":
            return "epsilon"
        return "epsilon" if self._number("global_step") == 875000 else "v_prediction"

    def _number(self, name: str) -> float | None:
        """The one number in a tensor; None where there is no such tensor, or more in it."""
        if self._shapes.get(name) not in ((), (1,)):
            return None
        tensor = self._source.read(name)
        return None if tensor.is_complex() else float(tensor)

    def config(self, name: str) -> dict[str, Any]:
        self._check_name(name, tuple(self._configs))
        return dict(self._configs[name])

    def tensors(self, name: str) -> MappedSource:
        self._check_name(name, tuple(self._tables))
        return MappedSource(self._source, self._tables[name], f"{self.source}: {name}")

    def tokenizer_files(self, name: str) -> dict[str, Path]:
        """Files of the folder `tokenizer` (or `tokenizer_2`) beside the file, else of a CLIP
        tokenizer in the Hub's cache: all of these models use the same vocabulary."""
        self._check_name(name, self.layout.named("tokenizer"))
        if self._config is not None:
            return self._config.tokenizer_files(name)
        for folder in dict.fromkeys((name, "tokenizer")):
            files = tokenizer_files_in(self.path.parent / folder)
            if files:
                return files
        from .hub import cached_folder

        for repo, folder in TOKENIZER_REPOS:
            snapshot = cached_folder(repo)
            files = tokenizer_files_in(snapshot / folder) if snapshot else {}
            if "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files.keys():
                return files
        raise CheckpointError(
            f"{self.source}: a single file holds no tokenizer. Put CLIP's vocab.json and merges.txt"
            f" into {self.path.parent / 'tokenizer'}, or bring it into the Hub's cache:"
            f" hf download {TOKENIZER_REPOS[0][0]} vocab.json merges.txt tokenizer_config.json"
        )

    def tokenizer_pad(self, name: str) -> str | None:
        """OpenCLIP pads with token 0, "!"; the files found may be those of OpenAI's CLIP."""
        if self._config is not None:
            return None
        return "!" if self.family == "sd2" or name == "tokenizer_2" else None

    def _prefixes(self) -> dict[str, str]:
        return {"unet": UNET, "vae": VAE, **TEXT[self.family]}

    def _shapes_below(self, prefix: str) -> Shapes:
        return Shapes(self._shapes, prefix, self.source)

    def _infer_configs(self, facts: Original) -> dict[str, dict[str, Any]]:
        picture = facts.picture
        if self.family == "sd2" and self.prediction_type == "epsilon":
            picture = 512  # SD 2 base
        unet, vae = self._shapes_below(UNET), self._shapes_below(VAE)
        configs = {"vae": vae_config(vae, picture, facts.scaling_factor)}
        factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
        configs["unet"] = unet_config(unet, max(1, picture // factor))
        for name, prefix in TEXT[self.family].items():
            configs[name] = self._text_config(name, prefix)
        if facts.sizes:
            pooled = configs["text_encoder_2"]["projection_dim"]
            configs["unet"] |= added_conditioning(unet, pooled, facts.sizes)
        configs["scheduler"] = self._scheduler_config(facts)
        return configs

    def _text_config(self, name: str, prefix: str) -> dict[str, Any]:
        if prefix in (CLIP_1, CLIP_XL):
            inner = f"{prefix}text_model."
            if any(n.startswith(inner) for n in self._shapes):
                prefix = inner
            return clip_config(self._shapes_below(prefix))
        return openclip_config(self._shapes_below(prefix), projection=name == "text_encoder_2")

    def _scheduler_config(self, facts: Original) -> dict[str, Any]:
        config = {
            "_class_name": facts.sampler,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": self.prediction_type,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
        }
        if "ztsnr" in self._shapes:
            config["rescale_betas_zero_snr"] = True
        return config

    def _targets(self, part: str, name: str) -> Iterator[Target]:
        """Where the tensor `name`, below the part's prefix, goes."""
        config = self._configs[part]
        if part == "unet":
            found = unet_target(name, config["layers_per_block"])
        elif part == "vae":
            found = vae_target(name, len(config["block_out_channels"]))
        elif self.family == "sd2" or part == "text_encoder_2":
            projection = part == "text_encoder_2"
            yield from openclip_targets(name, config["num_hidden_layers"], projection)
            return
        else:
            found = hf_clip_target(name)
        if found:
            yield found

    def _fill_tables(self) -> None:
        harmless = matcher((*HARMLESS, *ORIGINAL_HARMLESS))
        dropped = matcher(self._dropped())
        prefixes = self._prefixes()
        extra = []
        for name in self._source:
            if dropped.match(name):
                continue
            part = next((p for p, prefix in prefixes.items() if name.startswith(prefix)), None)
            targets = [*self._targets(part, name[len(prefixes[part]) :])] if part else []
            if part is None or not targets:
                if not harmless.match(name):
                    extra.append(name)
                continue
            table = self._tables[part]
            for new, change in targets:
                if new in table and harmless.match(name):
                    continue
                if new in table:
                    raise CheckpointError(f"{self.source}: two tensors are {part}'s {show(new)}")
                table[new] = self._entry(name, change)
        if extra:
            kind = other_kind(extra)
            raise CheckpointError(
                f"{self.source}: {len(extra)} tensors belong to no part of Stable Diffusion:"
                f" {listing(map(show, extra))}"
                + (f"; they look like those of {kind}, which is not supported" if kind else "")
            )

    def _dropped(self) -> Iterator[str]:
        """Patterns of tensors that belong to a part and that diffusers does not keep."""
        if self.family == "sd2":
            last = self._configs["text_encoder"]["num_hidden_layers"]
            yield f"{OPENCLIP_2}transformer.resblocks.{last}.*"
        for prefix in TEXT[self.family].values():
            # OpenCLIP's own spelling, which everyone reads first; some files have both.
            if f"{prefix}text_projection" in self._shapes:
                yield f"{prefix}text_projection.weight"

    def _entry(self, name: str, change: Part) -> Entry:
        shape = self._shapes[name]
        problem = f"{self.source}: {show(name)} is {list(shape)}"
        if change is None:
            return name, None, None
        if change == "matrix":
            if len(shape) < 2 or any(n != 1 for n in shape[2:]):
                raise CheckpointError(f"{problem}, expected a 1x1 convolution")
            return name, shape[:2], None
        if change == "transposed":
            if len(shape) != 2:
                raise CheckpointError(f"{problem}, expected a matrix")
            return name, shape[::-1], torch.t
        if not shape or shape[0] % 3:
            raise CheckpointError(f"{problem}, expected rows for queries, keys and values")
        rows = shape[0] // 3
        return name, (rows, *shape[1:]), _Rows(change * rows, rows)


@dataclass(frozen=True)
class _Rows:
    """Takes `count` rows from `begin` on."""

    begin: int
    count: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        # A copy: a view would keep the other rows in memory as long as it lives.
        return tensor[self.begin : self.begin + self.count].clone()


def find_family(names: Collection[str], where: str) -> str:
    """One of FAMILIES; raises CheckpointError that says what else the file seems to be."""
    prefixes = {
        p: any(n.startswith(p) for n in names)
        for p in (UNET, VAE, CLIP_1, OPENCLIP_2, CLIP_XL, OPENCLIP_XL, REFINER)
    }
    if f"{UNET}input_blocks.0.0.weight" not in names:
        raise CheckpointError(f"{where}: {_what_else(names)}")
    if any(n in names for n in ("edm_mean", "edm_std")):
        raise CheckpointError(f"{where}: Playground v2.5 (EDM) is not supported")
    if not prefixes[VAE]:
        raise CheckpointError(f"{where}: no autoencoder ({VAE}*); only whole checkpoints are read")
    if prefixes[CLIP_XL] and prefixes[OPENCLIP_XL]:
        return "sdxl"
    if prefixes[REFINER] and not prefixes[OPENCLIP_XL]:
        return "refiner"
    if prefixes[OPENCLIP_2]:
        return "sd2"
    if prefixes[CLIP_1]:
        return "sd1"
    raise CheckpointError(
        f"{where}: no text encoder ({CLIP_1}*, {OPENCLIP_2}* or conditioner.embedders.*);"
        " only whole checkpoints are read"
    )


def _what_else(names: Collection[str]) -> str:
    if any(n.startswith("model_ema.diffusion_model") for n in names):
        return (
            f"only the moving average of training (model_ema.*) is here, no {UNET}*: its names have"
            " lost their dots; save the model with the average in place of the weights"
        )
    kinds = {
        "one model in diffusers' layout; give its checkpoint's folder": ("down_blocks.",),
        "Stable Diffusion 3": ("joint_blocks.",),
        "Flux": ("double_blocks.",),
    }
    found = [other_kind(names)]
    found += [k for k, marks in kinds.items() if any(m in n for n in names for m in marks)]
    for kind in found:
        if kind is not None:
            return f"not Stable Diffusion 1.x, 2.x or XL; it looks like {kind}"
    return (
        "not a Stable Diffusion 1.x, 2.x or XL file in the original layout:"
        f" no {UNET}input_blocks.0.0.weight"
    )
