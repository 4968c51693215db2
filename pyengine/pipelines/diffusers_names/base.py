"""What every pipeline has of diffusers' DiffusionPipeline besides its call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from ...errors import RequestError
from ...weights import Checkpoint
from ...weights.text import show
from .configs import Config
from .moving import read_destination, same_device
from .switches import Switches

if TYPE_CHECKING:
    from typing_extensions import Self


class DiffusersNames(Switches):
    """Base of all pipelines: from_pretrained, from_pipe, to, save_pretrained, components, config.

    A subclass has `_class_name`, `_given` and `components`.
    """

    source: str
    dtype: torch.dtype
    #: That it was loaded from; None where it was made of parts, or of pipelines.
    checkpoint: Checkpoint | None = None

    # --- loading ----------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str] | None = None, **keywords: Any) -> Self:
        """pyengine.from_pretrained for a checkpoint that this class can draw with.

        Raises CheckpointError, which names the right class, for one that it cannot.
        """
        from ..loading import load

        model = named_model(model, keywords, "pretrained_model_name_or_path")
        made: Self = load(model, keywords, cls)
        return made

    @classmethod
    def from_pipe(cls, pipeline: Any, **keywords: Any) -> Self:
        """A pipeline of this class over the models of another one, which stays as it is.

        keywords: scheduler, dtype, device, and parts (vae=...), as from_pretrained takes them. The
        models are shared, not copied; the dtype stays unless told.
        """
        from .sharing import from_pipe

        made: Self = from_pipe(cls, pipeline, keywords)
        return made

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        **others: Any,
    ) -> None:
        """Writes the checkpoint in diffusers' layout, with the present scheduler: for
        from_pretrained, diffusers' too.

        The weights are the checkpoint's own, as stored there; in a pipeline of 16 bits those that
        are stored in more are rounded to its dtype. variant: "fp16" names the files
        *.fp16.safetensors. A folder that is there already keeps its other files, and nothing
        half-written is left where an error ends it.
        Raises RequestError where parts were given as objects: their weights lie packed.
        """
        from .saving import save

        save(self, save_directory, safe_serialization, variant, others)

    # --- where it is ------------------------------------------------------------------------------

    def to(
        self,
        *args: Any,
        device: Any = None,
        dtype: Any = None,
        silence_dtype_warnings: bool = False,
        **others: Any,
    ) -> Self:
        """pipe.to(device), pipe.to(dtype), pipe.to(device, dtype), or by keywords; returns itself.

        Weights lie arranged for one device and dtype, so elsewhere means reading them from the
        checkpoint again. It waits for a run in progress.
        Raises RequestError, UnavailableError as from_pretrained does, and where parts were given as
        objects.
        """
        from ..loading import reload
        from ..placing import find_device, find_dtype

        device, dtype = read_destination(args, device, dtype, others)
        place = self.device if device is None else find_device(device)
        kind = self.dtype if dtype is None else find_dtype(dtype)
        if same_device(place, self.device) and kind == self.dtype:
            return self
        self._check_own("to")
        reload(self, place, kind)
        return self

    def _check_own(self, name: str) -> None:
        """Raises RequestError where the checkpoint is not all that the pipeline is made of."""
        if self.checkpoint is None:
            raise RequestError(
                f"{name}: this pipeline was made of parts, not of a checkpoint; load one with"
                " pyengine.from_pretrained(..., device=..., dtype=...)"
            )
        if self._given:
            raise RequestError(
                f"{name}: {', '.join(self._given)} came as objects, whose weights lie packed; load"
                " them with device= and dtype= and give them to from_pretrained(..., device=...,"
                " dtype=...)"
            )

    # --- what it is -------------------------------------------------------------------------------

    @property
    def _given(self) -> tuple[str, ...]:
        """Names of the parts that were given as objects."""
        return ()

    @property
    def _class_name(self) -> str:
        """diffusers' name for its kind."""
        checkpoint = self.checkpoint
        return type(self).__name__ if checkpoint is None else checkpoint.pipeline_class

    @property
    def components(self) -> dict[str, Any]:
        """{name: part}; None for parts that diffusers' pipelines may have and ours do without."""
        raise NotImplementedError

    @property
    def config(self) -> Config:
        """model_index.json: the class, [library, class] of every part, and its settings."""
        from .saving import model_index

        return Config(model_index(self) | {"_name_or_path": self.source})

    @property
    def name_or_path(self) -> str:
        """The path or Hub id that it was loaded from."""
        return self.source

    @property
    def _execution_device(self) -> torch.device:
        return self.device

    @property
    def hf_device_map(self) -> None:
        """None: a model lies whole on one device."""
        return None


def named_model(model: Any, keywords: dict[str, Any], name: str) -> Any:
    """The model, also where it came by diffusers' name for the argument."""
    if name not in keywords:
        return model
    named = keywords.pop(name)
    if model is not None:
        raise RequestError(f"{name}: expected one model, given {show(model)} and {show(named)}")
    return named
