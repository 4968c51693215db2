"""What is loaded beside a checkpoint's own networks: LoRA files and their relatives, read as
differences from a loaded model's weights; files of ControlNets and of other adapters.
"""

from ..branches import Row
from .file import LoraFile, open_lora
from .lora import Lora, read_lora
from .presets import PRESETS, Preset, find_preset
from .summary import summary
from .tags import Tag, find_tags

__all__ = [
    "PRESETS",
    "Lora",
    "LoraFile",
    "Preset",
    "Row",
    "Tag",
    "find_preset",
    "find_tags",
    "open_lora",
    "read_lora",
    "summary",
]
