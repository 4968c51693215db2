"""diffusers' enable_*, disable_*, load_* and their kin.

A method that costs or changes nothing here does nothing and says why in its docstring; one that
would change pictures, or needs what is not here yet, raises and says where to go.
"""

import warnings
from typing import Any, NoReturn

import torch

from ...errors import RequestError, UnavailableError
from ...weights.text import show

_LORA = "Stable Diffusion's pipelines take LoRAs, this one does not"
_INVERSION = "Stable Diffusion's tokenizers learn tokens, this model's do not"
_ADAPTER = "only Stable Diffusion 1.x, 2.x and XL read pictures by an IP-Adapter"


class Switches:
    """Base of all pipelines."""

    #: What `progress=None` in a call means: None shows a bar on a terminal.
    _progress: bool | None = None
    device: torch.device

    # --- the bar ----------------------------------------------------------------------------------

    def set_progress_bar_config(self, **options: Any) -> None:
        """disable=True: no call shows a bar unless it is told progress=True; False: all show it.

        tqdm's other options (desc, leave, position...) change nothing: the bar is not tqdm's.
        """
        disable = options.get("disable", False)
        if disable is not None and not isinstance(disable, bool):
            raise RequestError(f"disable: expected True, False or None, given {show(disable)}")
        if "disable" in options:
            self._progress = None if disable is None else not disable

    def _shows(self, progress: bool | None) -> bool | None:
        return self._progress if progress is None else progress

    # --- accepted: costs and changes nothing ------------------------------------------------------

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Accepted: attention never holds the whole matrix of weights here."""

    def disable_attention_slicing(self) -> None:
        """Accepted: see enable_attention_slicing."""

    def set_attention_slice(self, slice_size: int | None) -> None:
        """Accepted: see enable_attention_slicing."""

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Accepted: the kernels' attention is of this kind already."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Accepted: see enable_xformers_memory_efficient_attention."""

    def set_use_memory_efficient_attention_xformers(
        self, valid: bool, attention_op: Any = None
    ) -> None:
        """Accepted: see enable_xformers_memory_efficient_attention."""

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Accepted: projections of one input are joined when a model is loaded."""

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Accepted: see fuse_qkv_projections; the results are the same either way."""

    def enable_vae_slicing(self) -> None:
        """Accepted: pictures are decoded one by one already."""

    def disable_vae_slicing(self) -> None:
        """Accepted: see enable_vae_slicing; a picture does not depend on the others."""

    def disable_freeu(self) -> None:
        """Accepted: FreeU is never on."""

    def remove_all_hooks(self) -> None:
        """Accepted: there are none."""

    def maybe_free_model_hooks(self) -> None:
        """Accepted: there are none; activations are given back after every run."""

    def reset_device_map(self) -> None:
        """Accepted: a model lies whole on one device."""

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Accepted with a warning on a GPU, where the models stay; nothing to do on the CPU."""
        self._stays("enable_model_cpu_offload")

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """As enable_model_cpu_offload."""
        self._stays("enable_sequential_cpu_offload")

    def enable_group_offload(self, *_: Any, **__: Any) -> None:
        """As enable_model_cpu_offload."""
        self._stays("enable_group_offload")

    def _stays(self, name: str) -> None:
        if self.device.type != "cpu":
            warnings.warn(
                f"{name}: the models stay on {self.device}, where they fit; dtype='float16' or"
                " weights='fp8' in from_pretrained takes less memory",
                stacklevel=3,
            )

    # --- the autoencoder's ------------------------------------------------------------------------

    def enable_vae_tiling(self, use_tiling: bool = True) -> None:
        """Large pictures are encoded and decoded in overlapping tiles from now on, as in diffusers:
        less memory, and seams blended, so other pictures. use_tiling: False turns it off.
        """
        vae = getattr(self, "vae", None)
        if vae is None:
            raise RequestError("enable_vae_tiling: this model has no AutoencoderKL to tile")
        if use_tiling:
            vae.enable_tiling()
        else:
            vae.disable_tiling()

    def disable_vae_tiling(self) -> None:
        """Turns enable_vae_tiling off."""
        self.enable_vae_tiling(False)

    # --- refused ----------------------------------------------------------------------------------

    def enable_freeu(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: FreeU changes pictures."""
        _absent("enable_freeu", "FreeU is not here; diffusers has it")

    def load_lora_weights(self, *_: Any, **__: Any) -> Any:
        """Refused but of Stable Diffusion's pipelines: see lora.LoraNames."""
        _absent("load_lora_weights", _LORA)

    def fuse_lora(self, *_: Any, **__: Any) -> Any:
        """Refused but of Stable Diffusion's pipelines: see lora.LoraNames."""
        _absent("fuse_lora", _LORA)

    def set_adapters(self, *_: Any, **__: Any) -> Any:
        """Refused but of Stable Diffusion's pipelines: see lora.LoraNames."""
        _absent("set_adapters", _LORA)

    def enable_lora(self, *_: Any, **__: Any) -> Any:
        """Refused but of Stable Diffusion's pipelines: see lora.LoraNames."""
        _absent("enable_lora", _LORA)

    def enable_lora_hotswap(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: nothing is compiled anew for a LoRA."""
        _absent("enable_lora_hotswap", "nothing is compiled for a LoRA: load and unload them")

    def set_lora_device(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a LoRA lies where its model lies."""
        _absent("set_lora_device", "a LoRA lies where its model lies")

    def save_lora_weights(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: diffusers writes LoRA files."""
        _absent("save_lora_weights", "diffusers' pipelines write LoRA files")

    def load_textual_inversion(self, *_: Any, **__: Any) -> Any:
        """Refused: not here yet."""
        _absent("load_textual_inversion", _INVERSION)

    def load_ip_adapter(self, *_: Any, **__: Any) -> Any:
        """Refused: of Stable Diffusion's pipelines alone."""
        _absent("load_ip_adapter", _ADAPTER)

    def set_ip_adapter_scale(self, *_: Any, **__: Any) -> Any:
        """Refused: of Stable Diffusion's pipelines alone."""
        _absent("set_ip_adapter_scale", _ADAPTER)

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: pyengine writes to disks only."""
        _absent("push_to_hub", "save_pretrained(folder), then: hf upload ID folder")

    # --- taking away what was never there ---------------------------------------------------------

    def unload_lora_weights(self, *_: Any, **__: Any) -> None:
        """Accepted: there are none."""

    def unfuse_lora(self, *_: Any, **__: Any) -> None:
        """Accepted: there are none."""

    def disable_lora(self) -> None:
        """Accepted: there are none."""

    def delete_adapters(self, *_: Any, **__: Any) -> None:
        """Accepted: there are none."""

    def get_active_adapters(self) -> list[str]:
        """None: []."""
        return []

    def get_list_adapters(self) -> dict[str, list[str]]:
        """None: {}."""
        return {}

    def unload_textual_inversion(self, *_: Any, **__: Any) -> None:
        """Accepted: there is none."""

    def unload_ip_adapter(self) -> None:
        """Accepted: there is none."""


def _absent(name: str, way: str) -> NoReturn:
    raise UnavailableError(f"{name}: {way}")
