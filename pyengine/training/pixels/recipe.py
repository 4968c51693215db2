"""`pyengine train pixels`: one pixel after another, in colours of a palette.

The objective is in objective.py, the network in network.py, the colours in palette.py. Sampling is
that of all models that draw token after token (decoding/).
"""

from __future__ import annotations

from ..small import SmallRecipe
from .objective import Batches, Networks
from .parts import write
from .settings import PixelSettings

CARD = """# A small model that draws pixel by pixel

Text to pictures of 16x16 pixels, which come out four times as large: a transformer that reads the
text's hidden states and the pixels so far, in reading order, and predicts the colour of the next
one among 64 (PixelRNN, arXiv:1601.06759; the palette as in "Generative Pretraining from Pixels",
Chen et al. 2020). 256 evaluations a picture. The text encoder is `emoji`'s; this folder names it
and has none. It draws what is in [concepts.txt](concepts.txt), which it has seen in one picture
each. What goes wrong early in a picture stays wrong: nothing that is drawn is looked at again. It
is weak, after eight minutes of training: plain things come out right, many others lose the text
after their first rows.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-pixels")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
"""


def rows(settings: PixelSettings) -> dict[str, str]:
    """The card's own rows."""
    return {
        "loss": "cross entropy of each pixel after those before it",
        "palette": f"{settings.colours} colours: the most frequent, and k-means of all others",
        "pixels read as others": f"{settings.corrupted:.0%}",
        "empty prompts": f"{settings.dropped:.0%}",
    }


RECIPE = SmallRecipe(
    name="pixels",
    settings=PixelSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("loss", "right"),
    batches=Batches,
)
