"""What diffusers' callbacks read of a pipeline in the middle of a run, and what they set."""

from typing import Any

from ...guidance import Method
from ...jobs.runs import Runs


class RunProperties:
    """Settings of the run in progress, else of the last, by the names that diffusers' pipelines
    have for them. `pipe._guidance_scale = 0.0` and `pipe._guidance_rescale = 0.5` in a callback
    hold from the next step on.
    """

    _runs: Runs
    defaults: Any

    def _setting(self, name: str, default: Any = None) -> Any:
        run = self._runs.current()
        return default if run is None else run.settings.get(name, default)

    def _set(self, name: str, value: Any) -> None:
        run = self._runs.in_progress()
        if run is None or name not in run.settings:
            raise AttributeError(
                f"_{name}: there is no run to change; give {name} to the call, or set it in a"
                " callback_on_step_end"
            )
        run.settings[name] = value

    @property
    def guidance_scale(self) -> Any:
        return self._setting("guidance_scale", self.defaults.guidance_scale)

    @property
    def _guidance_scale(self) -> Any:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: Any) -> None:
        self._set("guidance_scale", value)

    @property
    def guidance_rescale(self) -> Any:
        return self._setting("guidance_rescale", self.defaults.guidance_rescale)

    @property
    def _guidance_rescale(self) -> Any:
        return self.guidance_rescale

    @_guidance_rescale.setter
    def _guidance_rescale(self, value: Any) -> None:
        self._set("guidance_rescale", value)

    @property
    def do_classifier_free_guidance(self) -> bool:
        scale = self.guidance_scale
        method = self._setting("guidance_method", Method())
        return self._guides(scale if isinstance(scale, tuple | list) else (scale,), method)

    def _guides(self, scales: Any, method: Method) -> bool:
        raise NotImplementedError

    @property
    def num_timesteps(self) -> int:
        """Model evaluations of the run."""
        return int(self._setting("num_timesteps", 0))

    @property
    def _num_timesteps(self) -> int:
        return self.num_timesteps

    @property
    def clip_skip(self) -> Any:
        return self._setting("clip_skip")

    @property
    def denoising_start(self) -> Any:
        return self._setting("denoising_start")

    @property
    def denoising_end(self) -> Any:
        return self._setting("denoising_end")

    @property
    def cross_attention_kwargs(self) -> None:
        return None
