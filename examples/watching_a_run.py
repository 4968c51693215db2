"""A run as a generator: looked at between its steps, and left once it is good enough.

python examples/watching_a_run.py folder
"""

import sys
from pathlib import Path

import pyengine


def main(folder: str) -> None:
    pipe = pyengine.from_pretrained()
    steps = pipe.steps("a house", seed=6, num_inference_steps=8)
    for step in steps:
        step.preview()[0].save(Path(folder) / f"step-{step.step}.png")
        print(f"step {step.step}: the latents' spread is {step.latents.std():.3f}")
        if step.step == 4:
            break
    steps.output.images[0].save(Path(folder) / "left.png")  # that of step 4


if __name__ == "__main__":
    main(*sys.argv[1:])
