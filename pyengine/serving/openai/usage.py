"""What an answer says it took, in OpenAI's fields."""

from typing import Any

from ..drawing import Drawing

#: A picture of a model that draws no tokens counts as one for each so many pixels, squared.
PATCH = 8


def usage_of(
    drawing: Drawing, output: Any, first: bool = True, count: int | None = None
) -> dict[str, Any]:
    """text_tokens: of the prompts, by the model's tokenizer. image_tokens, and output_tokens of
    models that draw none: one for each 8x8 pixels.

    first: whether what went in counts. count: pictures that came out, None: all.
    """
    pictures = len(output.seeds) if count is None else count
    report = output.report
    each = report.tokens // len(output.seeds) or _patches(report.width, report.height)
    text = _text_tokens(drawing) if first else 0
    images = _image_tokens(drawing) if first else 0
    return {
        "input_tokens": text + images,
        "output_tokens": pictures * each,
        "total_tokens": text + images + pictures * each,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
    }


def _patches(width: int, height: int) -> int:
    return -(-width // PATCH) * -(-height // PATCH)


def _text_tokens(drawing: Drawing) -> int:
    tokenizer = drawing.pipe.components.get("tokenizer")
    texts = [drawing.call.get(name) for name in ("prompt", "negative_prompt")]
    if not hasattr(tokenizer, "encode"):  # of a model without texts, or of several encoders
        return 0
    return sum(len(tokenizer.encode(text)) for text in texts if text)


def _image_tokens(drawing: Drawing) -> int:
    images = [drawing.call.get(name) for name in ("image", "mask_image", "prefix")]
    return sum(_patches(image.width, image.height) for image in images if image is not None)
