"""Samplers as coefficient tables.

Every sampler here is linear in what it has seen, so a run is compiled once, in float64 on the
host, to a table with one row per model evaluation; `pyengine.ops.sampler_step` does guidance and
update from such a row. Noise schedules (betas, sigmas, timesteps) are rounded to float32 where the
checkpoints' training code and diffusers round them, so timesteps agree exactly.

The simple way, for a batch whose pictures share one plan::

    scheduler = from_config(config)               # the checkpoint's scheduler_config.json, parsed
    scheduler = from_config(config, "Euler a")    # another sampler with the checkpoint's saved keys
    plan = scheduler.plan(20)                     # or plan(50, strength=0.6), plan(20, eta=1.0)
    plan = scheduler.plan(40, denoising_end=0.8)  # SDXL's base; denoising_start=0.8 its refiner
    scheduler.warnings                            # what the config asks for and does not get

    state = plan.start(noise)                     # x = init_noise_sigma * noise, [N, ...]
    state = plan.start(noise, image_latents)      # image-to-image: x = add_noise(image_latents)
    for i, t in enumerate(plan.timesteps):        # Heun: 2 n - 1, PNDM: n + 1 of them
        out = unet(plan.scale_input(i, state.x), t)            # [N, ...], or [2 N, ...] guided:
                                                               # N unconditional rows, then N
        fresh = randn_like(state.x) if plan.draws_noise[i] else None
        state = plan.step(i, state, out, guidance_scale=7.5, noise=fresh, guidance_rescale=0.0)
        # inpainting with a 4-channel U-Net; mask is 1 where the picture is to be made anew
        state = plan.keep_known(i, state, image_latents, noise, mask)
    state.x                                       # the clean latents

What a Plan holds
-----------------
- `timesteps`: one int or float per model evaluation, exactly what diffusers passes to the U-Net.
- `draws_noise`: one bool per evaluation, true exactly where diffusers' `step` draws from the
  generator, so that generators stay in step. `noise_dtype`: torch.float32 where diffusers draws in
  float32 whatever the model's dtype (sde-dpmsolver), else None (the model's dtype).
- `variance`: "learned" or "learned_range" where the model predicts the noise's variance in as many
  channels more: `step` takes its whole output.
- `in_scale`: factor on the model's input (`scale_input` applies it); `init_noise_sigma`.
- `add_noise(x, noise)`: x at the noise level where the run begins (`level` has its (a, b) with
  x_t = a x + b noise); `renoise[i]`: the (a, b) of known latents after evaluation i, (1, 0)
  after the last.
- `begin`: index of the first evaluation within the whole run (0 unless strength < 1).
- `ends_step[i]`: whether a denoising step is complete; `num_steps` of them are. diffusers advances
  its progress bar there, and calls callback_on_step_end after every evaluation.
- `rows`: [evaluations, len(COLUMNS)] float64; `describe()`: the same as a text table.

`State` is a frozen dataclass (x, d1, d2, d3, base); a callback that edits the latents does
`state = dataclasses.replace(state, x=edited)`.

Guidance: `guidance_scale` and `guidance_rescale` are a number, or one number per picture; both are
ignored where `out` has N rows. Rescaling factors and dynamic thresholds are computed picture by
picture, so a picture does not depend on its neighbours in the batch.

Pictures at different steps, with different samplers, in one batch
------------------------------------------------------------------
    rows = stack_rows([(plan_a, 3), (plan_b, 0)], guidance_scale=[7.5, 4.0])   # a row per picture
    state = State.join([state_a, state_b])        # pictures of several states, in this order
    x_in = rows.scale_input(state.x); t = rows.timesteps       # [N] tensor for the U-Net
    state = step_rows(state, out, rows, noise=noise, guidance_rescale=[0.7, 0.0])
    state_a = state.pick([0])                     # some pictures of a state

`rows.draws_noise` says per picture whether to draw; give zeros for the others.

Errors: ConfigError for a scheduler config that cannot be used (unknown key or class, wrong type,
out of bounds, an option that is not supported); RequestError for arguments of `plan` (no steps, too
many, an unknown sampler name, strength outside 0..1...).
"""

from .plan import Evaluation, Plan, Rows, State, stack_rows, step_rows
from .samplers import CLASSES, SAMPLER_NAMES, find_name
from .scheduler import Scheduler, from_config

__all__ = [
    "CLASSES",
    "SAMPLER_NAMES",
    "Evaluation",
    "Plan",
    "Rows",
    "Scheduler",
    "State",
    "find_name",
    "from_config",
    "stack_rows",
    "step_rows",
]
