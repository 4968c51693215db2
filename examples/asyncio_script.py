"""Many pictures at once, from a script.

python examples/asyncio_script.py hearts --prompt "a red heart" --number 8
"""

import argparse
import asyncio
from pathlib import Path

import pyengine


async def draw(engine: pyengine.Engine, folder: Path, prompt: str, seed: int, steps: int) -> None:
    """Draws one picture and tells how far it is; the engine runs all of them together."""
    job = engine.submit(prompt=prompt, seed=seed, num_inference_steps=steps, previews=1)
    async for event in job:
        if event.type == "preview":
            event.images[0].save(folder / f"{seed}-step{event.step}.png")
        elif event.type == "step" and event.step == event.steps:
            print(f"seed {seed}: all {event.steps} steps", flush=True)
    output = await job  # raises what went wrong
    output.images[0].save(folder / f"{seed}.png")


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--prompt", default="a red heart")
    options.add_argument("--number", type=int, default=4)
    options.add_argument("--steps", type=int, default=20)
    given = options.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    async with pyengine.Engine("emoji", max_waiting=given.number) as engine:
        await asyncio.gather(*(
            draw(engine, given.folder, given.prompt, seed, given.steps)
            for seed in range(given.number)
        ))  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
