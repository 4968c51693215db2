"""A first picture, and what is known of how it was made.

python examples/first_picture.py heart.png
"""

import sys

import pyengine


def main(target: str) -> None:
    pipe = pyengine.from_pretrained()  # the model that ships
    result = pipe("a red heart", seed=1, num_inference_steps=8)
    result.images[0].save(target)
    report = result.report
    print(f"{report.sampler}, {report.steps} steps, {report.seconds['total']:.2f} s")
    for warning in report.warnings:
        print(warning)


if __name__ == "__main__":
    main(*sys.argv[1:])
