"""A DCGAN's generator in one file, as PyTorch's example saves it."""

from typing import Any

from ...weights.network_file import NetworkFile, Shapes


class DCGANFile(NetworkFile):
    """main.0.weight, main.1.weight, ...: see pyengine.models.gan.dcgan."""

    pipeline_class = "DCGANGenerator"

    def infer(self, shapes: Shapes) -> dict[str, Any]:
        widths: list[int] = []
        while len(shape := shapes.get(f"main.{3 * len(widths)}.weight", ())) == 4:
            widths.append(shape[1])
        first = shapes["main.0.weight"]
        return {
            "model_type": "dcgan",
            "latent_channels": first[0] if first else 0,
            "block_out_channels": widths[:-1],
            "out_channels": widths[-1] if widths else 0,
        }
