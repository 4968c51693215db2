"""`pyengine train pixels`: one pixel after another, in colours of a palette."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
