"""`pyengine train masked`: all tokens of a picture at once, refined.

The objective is in objective.py, the network in network.py. Sampling is decoding/masked.py's.
"""

from __future__ import annotations

from ..small import SmallRecipe
from .objective import Batches, Networks
from .parts import write
from .settings import MaskedSettings

CARD = """# A small model that draws all tokens at once and refines them

Text to 64x64 pictures by masked tokens (MaskGIT, arXiv:2202.04200; Muse, arXiv:2301.00704): a
transformer that sees a picture's 8x8 tokens, masked or known, and the text, predicts all masked
ones; the least certain are masked again, over 12 steps. The tokens are those of `emoji-ar`'s
VQ-VAE, the text encoder is `emoji`'s; this folder names both and has neither. It draws what is in
[concepts.txt](concepts.txt), which it has seen in one picture each: seeds change little.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-masked")
pipe("a red heart", seed=1).images[0].save("heart.png")
pipe("a red heart", seed=1, num_inference_steps=4).images[0].save("coarse.png")
```
"""


def rows(settings: MaskedSettings) -> dict[str, str]:
    """The card's own rows."""
    return {
        "loss": f"cross entropy of the masked tokens, labels smoothed by {settings.smoothing:g}",
        "masked": "a share cos(pi r / 2) of the tokens, r uniform in 0..1",
        "known tokens read as others": f"{settings.corrupted:.0%}",
        "empty prompts": f"{settings.dropped:.0%}",
    }


RECIPE = SmallRecipe(
    name="masked",
    settings=MaskedSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("loss", "right"),
    batches=Batches,
)
