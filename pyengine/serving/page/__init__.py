"""The page at /: prompt, settings by model, previews, history. Its files are static, and ours."""

from .routes import router

__all__ = ["router"]
