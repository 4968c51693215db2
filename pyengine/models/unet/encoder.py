"""What a U-Net and a ControlNet share: what they are told, and the way down to the middle block.

Rombach et al. 2022, arXiv:2112.10752; Podell et al. 2023, arXiv:2307.01952 (SDXL).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import branches
from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Embedding, Linear
from ..base import Model, to_nchw
from ..blocks.added_kv import AddedKVAttention
from ..blocks.embeddings import TimestepEmbedding, flat_timesteps, sinusoids
from ..blocks.resnet import ResnetBlock2D
from ..blocks.resnet_variants import activation
from ..blocks.transformer import CrossAttention
from . import conditioning
from .blocks import DOWN_BLOCKS, MID_BLOCKS, Conditioning
from .config import UNet2DConditionConfig
from .context import TextContext, TimeEmbedding

#: What diffusers adds to the scores of tokens that a mask hides.
HIDDEN = -10000.0


class ConditionEncoder(Model):
    """A U-Net's first half: the first convolution, embeddings, the blocks down and the middle one.

    A subclass adds what it makes of them, and then calls `_number`.
    """

    def __init__(self, config: UNet2DConditionConfig):
        super().__init__(config)
        c, channels, levels = config, config.block_out_channels, range(config.levels)
        self.conv_in = Conv2d(
            c.in_channels, channels[0], c.conv_in_kernel, padding=c.conv_in_kernel // 2
        )
        self._activation = "gelu" if c.act_fn == "gelu" else "silu"
        self.time_embedding = TimestepEmbedding(
            channels[0], c.time_dim, c.time_cond_proj_dim, self._activation
        )
        self.encoder_hid_proj = conditioning.encoder_hid_proj(c)
        self.class_embedding = self._class_embedding()
        self.add_embedding = conditioning.add_embedding(c)
        self.down_blocks = nn.ModuleList(DOWN_BLOCKS[c.down_block_types[i]](c, i) for i in levels)
        self.mid_block = MID_BLOCKS[c.mid_block_type](c) if c.mid_block_type else None

    def _number(self) -> None:
        """Gives every block that is told a time or a text its slot, in the order of the modules."""
        self._resnets = tuple(m for m in self.modules() if isinstance(m, ResnetBlock2D))
        self._crosses = tuple(
            m for m in self.modules() if isinstance(m, CrossAttention | AddedKVAttention)
        )
        for numbered in (self._resnets, self._crosses):
            for slot, module in enumerate(numbered):
                module.slot = slot

    def _class_embedding(self) -> Any:
        c = self.config
        if c.num_class_embeds is not None:
            return Embedding(c.num_class_embeds, c.time_dim)
        width = c.projection_class_embeddings_input_dim
        if c.class_embed_type == "timestep":
            return TimestepEmbedding(
                c.block_out_channels[0], c.time_dim, activation=self._activation
            )
        if c.class_embed_type == "identity":
            return nn.Identity()
        if c.class_embed_type == "simple_projection":
            return Linear(width, c.time_dim)
        if c.class_embed_type is not None:
            return TimestepEmbedding(width, c.time_dim)
        return None

    @property
    def cross_attentions(self) -> dict[str, int]:
        """The attentions to the text by name, in the order of a TextContext, with their widths."""
        names = {module: name for name, module in self.named_modules()}
        crosses = (module for module in self._crosses if isinstance(module, CrossAttention))
        return {names[module]: module.to_q.in_features for module in crosses}

    # --- what depends on the prompt alone, or on the schedule alone -------------------------------

    @inference
    def encode_context(
        self,
        encoder_hidden_states: Tensor | None,
        *,
        image_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> TextContext:
        """The text's keys and values for every layer, to be passed as `encoder_hidden_states`.

        encoder_hidden_states: [N, L, C], C cross_attention_dim, or encoder_hid_dim where the model
        has a projection; of a model that projects pictures' embeddings alone (encoder_hid_dim_type
        "image_proj"), these, [N, C] or [N, 1, C]. image_embeds: [N, C], pictures' embeddings beside
        a text ("text_image_proj"). attention_mask: [N, L], 0 hides a token. The result equals what
        `forward` would compute from it in every step.
        """
        if not self._crosses:
            return TextContext(())
        text = self._projected(encoder_hidden_states, image_embeds)
        mask = self._mask(attention_mask, text)
        return TextContext(tuple(m.keys_values(text) for m in self._crosses), mask=mask)

    @inference
    def encode_hint(self, hint: Tensor) -> Tensor:
        """[N, 3, 8 h, 8 w], a picture as the model was trained to be told it (a map of depths,
        0..1) -> [N, 4, h, w], which lies beside the sample's channels (addition_embed_type
        "image_hint"). Raises RequestError for another shape and of other models.
        """
        if not isinstance(self.add_embedding, conditioning.ImageHintTimeEmbedding):
            raise RequestError("hint: expected none, since this model reads none")
        factor = conditioning.HINT_FACTOR
        if (
            hint.dim() != 4
            or hint.shape[1] != 3
            or not hint.numel()
            or any(side % factor for side in hint.shape[2:])
        ):
            raise RequestError(
                f"hint: expected [N, 3, H, W], H and W multiples of {factor}, got"
                f" {list(hint.shape)}"
            )
        x = hint.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()
        with self.arena.use():
            return to_nchw(self.add_embedding.input_hint_block(x))

    def _projected(self, text: Tensor | None, image: Tensor | None) -> Tensor:
        """[N, L, cross_attention_dim], what the attentions read."""
        kind = self.config.projection
        if kind == "image_proj" and text is not None and text.dim() == 2:
            text = text[:, None]
        if text is None:
            raise RequestError("encoder_hidden_states: this model needs them, got None")
        known = {m.context_width for m in self._crosses}
        for width in known if kind is None else {self.config.encoder_hid_dim}:
            if text.dim() != 3 or text.shape[2] != width or not text.shape[1]:
                raise RequestError(
                    f"encoder_hidden_states: expected [N, L, {width}], got {list(text.shape)}"
                )
        text = text.to(device=self.device, dtype=self.dtype).contiguous()
        if self.encoder_hid_proj is None:
            return text
        projected: Tensor
        if kind in ("image_proj", "text_proj"):
            projected = self.encoder_hid_proj(
                text if kind == "text_proj" else text[:, 0].contiguous()
            )
            return projected
        wanted = [len(text), self.config.cross_attention_dim]
        if image is None or list(image.shape) != wanted:
            found = None if image is None else list(image.shape)
            raise RequestError(f"image_embeds: expected {wanted}, got {found}")
        image = image.to(device=self.device, dtype=self.dtype).contiguous()
        projected = self.encoder_hid_proj(text, image)
        return projected

    def _mask(self, mask: Tensor | None, text: Tensor) -> Tensor | None:
        """[N, L] float32, added to scores; of attention_mask, 1 for a token that is seen."""
        if mask is None:
            return None
        if not all(isinstance(m, AddedKVAttention) for m in self._crosses):
            raise RequestError("attention_mask: expected None for this model, got a mask")
        if mask.shape != text.shape[:2]:
            raise RequestError(
                f"attention_mask: expected shape {list(text.shape[:2])}, got {list(mask.shape)}"
            )
        return (1 - mask.to(self.device).float()) * HIDDEN

    @inference
    def embed_timesteps(
        self,
        timesteps: Tensor | Sequence[float],
        *,
        timestep_cond: Tensor | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> TimeEmbedding:
        """The embeddings of a whole schedule: pass `table[i]` as `timestep` in step i.

        timesteps: [T]. The conditions are those of `forward`, for N pictures or one; they must be
        given here, not to `forward`.
        """
        adapted = self._adapted_times()
        if adapted is not None:  # a row for every picture
            conditions = (timestep_cond, class_labels, added_cond_kwargs)
            steps = [t.expand(adapted.rows) for t in flat_timesteps(timesteps, self.device)]
            tables = [self._embed(step, *conditions).rows for step in steps]
            return TimeEmbedding(tuple(torch.stack(rows) for rows in zip(*tables, strict=True)))
        t = flat_timesteps(timesteps, self.device)[:, None]
        if timestep_cond is not None:
            timestep_cond = timestep_cond[None]
        return self._embed(t, timestep_cond, class_labels, added_cond_kwargs)

    def _adapted_times(self) -> branches.Adapted | None:
        """What rows have beside the weights, where that is beside layers that embed times."""
        adapted = branches.active()
        if adapted is None:
            return None
        embeddings = (self.time_embedding, self.class_embedding, self.add_embedding)
        own = (m for e in embeddings if e is not None for m in e.modules())
        projections = (m.time_emb_proj for m in self._resnets if m.time_emb_proj is not None)
        return adapted if adapted.touches([*own, *projections]) else None

    def _sinusoids(self, values: Tensor, dim: int) -> Tensor:
        c = self.config
        return sinusoids(values, dim, c.flip_sin_to_cos, c.freq_shift)

    def _embed(
        self,
        t: Tensor,
        timestep_cond: Tensor | None,
        class_labels: Tensor | None,
        added: dict[str, Tensor] | None,
    ) -> TimeEmbedding:
        """t: [..., N or 1]; timestep_cond: [..., N or 1, time_cond_proj_dim]."""
        if timestep_cond is not None:
            if self.time_embedding.cond_proj is None:
                raise RequestError("timestep_cond: this model has no time_cond_proj_dim")
            timestep_cond = timestep_cond.to(device=self.device, dtype=self.dtype)
        waves = self._sinusoids(t, self.config.block_out_channels[0]).to(self.dtype)
        emb = self.time_embedding(waves, timestep_cond)
        for condition in (self._class_rows(class_labels), self._added_rows(added)):
            if condition is not None:
                emb = emb + condition
        if self.config.time_embedding_act_fn is not None:
            emb = activation(emb, self.config.time_embedding_act_fn)
        return TimeEmbedding(tuple(m.embed_time(emb) for m in self._resnets))

    def _class_rows(self, labels: Tensor | None) -> Tensor | None:
        """[N, time_dim] for class_labels: ids [N], times [N] or vectors [N, C], by config."""
        if self.class_embedding is None:
            return None
        if labels is None:
            raise RequestError("class_labels: this model needs them, got None")
        labels = labels.to(self.device)
        if self.config.num_class_embeds is not None:
            rows: Tensor = self.class_embedding(labels)
            return rows
        if self.config.class_embed_type == "timestep":
            labels = self._sinusoids(labels, self.config.block_out_channels[0])
        elif labels.dim() != 2 or labels.shape[1] != self._label_width:
            raise RequestError(
                f"class_labels: expected [N, {self._label_width}], got {list(labels.shape)}"
            )
        rows = self.class_embedding(labels.to(self.dtype))
        return rows

    @property
    def _label_width(self) -> int:
        """Of the vectors that class_labels are."""
        if self.config.class_embed_type == "identity":
            width: int = self.config.time_dim
            return width
        width = self.config.projection_class_embeddings_input_dim
        return width

    def _added_rows(self, added: dict[str, Tensor] | None) -> Tensor | None:
        """[N, time_dim] for what addition_embed_type takes out of added_cond_kwargs."""
        if self.add_embedding is None:
            return None
        c, module = self.config, self.add_embedding
        return conditioning.added_rows(module, c, added, self.device, self.dtype)

    # --- one evaluation ---------------------------------------------------------------------------

    def _prepared(
        self,
        sample: Tensor,
        timestep: Tensor | float | TimeEmbedding,
        context: Tensor | TextContext | None,
        added_cond_kwargs: dict[str, Tensor] | None,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Conditioning]:
        """(the sample as [N, H, W, C], what every block is told) of the arguments of `forward`."""
        sample = self._beside_hint(sample, added_cond_kwargs)
        self._check_sample(sample)
        added_cond_kwargs = self._with_text(added_cond_kwargs, context)
        if not isinstance(context, TextContext):
            image = (added_cond_kwargs or {}).get("image_embeds")
            context = image if self.config.projection == "image_proj" else context
            context = self.encode_context(
                context, image_embeds=image, attention_mask=attention_mask
            )
        elif attention_mask is not None:
            raise RequestError("attention_mask: was to be given to encode_context")
        n = len(sample)
        if self._crosses and len(context) != n:
            raise RequestError(f"encoder_hidden_states: expected {n} rows, got {len(context)}")
        conditions = (timestep_cond, class_labels, added_cond_kwargs)
        if not isinstance(timestep, TimeEmbedding):
            t = flat_timesteps(timestep, self.device)
            if len(t) == 1 and self._adapted_times() is not None:  # adapters are those of n rows
                t = t.expand(n)
            timestep = self._embed(t, *conditions)
        elif any(c is not None for c in conditions):
            raise RequestError("timestep: conditions were to be given to embed_timesteps")
        given = Conditioning(timestep.for_pictures(n), context.attended(), context.mask)
        sample = sample.to(device=self.device, dtype=self.dtype)
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        return sample.permute(0, 2, 3, 1).contiguous(), given

    def _with_text(
        self, added: dict[str, Tensor] | None, text: Tensor | TextContext | None
    ) -> dict[str, Tensor] | None:
        """added_cond_kwargs with the text, where it is embedded beside the time, too."""
        if self.config.addition_embed_type != "text" or not isinstance(text, Tensor):
            return added
        return {"encoder_hidden_states": text, **(added or {})}

    def _beside_hint(self, sample: Tensor, added: dict[str, Tensor] | None) -> Tensor:
        """The sample with what is made of a hint among added_cond_kwargs; without one the sample,
        which `evaluate` is given with all its channels.
        """
        if added is None or added.get("hint") is None:
            return sample
        made = self.encode_hint(added["hint"])
        if sample.dim() != 4 or (len(sample), *sample.shape[2:]) != (len(made), *made.shape[2:]):
            n, _, h, w = made.shape
            raise RequestError(
                f"hint: expected {list(sample.shape)} beside it to be [{n}, C, {h}, {w}]"
            )
        return torch.cat([sample.to(made), made], dim=1)

    def _check_sample(self, sample: Tensor) -> None:
        channels = self.config.in_channels
        if sample.dim() != 4 or sample.shape[1] != channels or not sample.numel():
            raise RequestError(f"sample: expected [N, {channels}, H, W], got {list(sample.shape)}")
        least = 1 if self.config.downsample_padding else 2 ** (self.config.levels - 1)
        if min(sample.shape[2:]) < least:
            raise RequestError(
                f"sample: expected at least {least}x{least}, got {list(sample.shape[2:])}"
            )
