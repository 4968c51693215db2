"""What `pyengine eval` of a model that guides others has found, in words and a table."""

from typing import Any


def report(result: dict[str, Any]) -> str:
    """The result as a table in Markdown, for the terminal and for the card."""
    if "levels" not in result:
        return (
            f"{result['asked']} pictures in style {result['style']}, each against"
            f" {result['prompts']} prompts: top 1 {result['top1']:.1%}, top 5 {result['top5']:.1%}"
        )
    lines = [
        f"{result['asked']} of the pictures that it was trained on, in style {result['style']},"
        f" each with fresh noise {result['draws']}",
        f"times: is its own class the likeliest of {result['classes']} (top 1), or among the five"
        " likeliest (top 5)?",
        "Best: top 1 of the rule that nothing beats while these pictures are all there are, the",
        "nearest latents.",
        "",
        "| timestep | noise, of the variance | top 1 | top 5 | best |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in result["levels"]:
        shares = " | ".join(f"{row[name]:.1%}" for name in ("top1", "top5", "best"))
        lines.append(f"| {row['timestep']} | {row['noise']:.1%} | {shares} |")
    return "\n".join(lines)
