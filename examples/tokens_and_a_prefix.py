"""A picture as tokens, and the rest of it drawn anew after its upper half.

python examples/tokens_and_a_prefix.py folder
"""

import sys
from pathlib import Path

import pyengine


def main(folder: str) -> None:
    pipe = pyengine.from_pretrained("emoji-ar")  # draws a picture token by token
    whole = pipe("a red heart", seed=1)
    rows = whole.tokens.shape[1]
    print(whole.tokens[0].tolist())
    upper = whole.tokens[:, : rows // 2].flatten(1)  # [1, n], in reading order
    continued = pipe("a red heart", prefix=upper, seed=2, temperature=1.2)
    assert continued.tokens[:, : rows // 2].equal(whole.tokens[:, : rows // 2])
    whole.images[0].save(Path(folder) / "whole.png")
    continued.images[0].save(Path(folder) / "continued.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
