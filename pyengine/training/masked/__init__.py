"""`pyengine train masked`: all tokens of a picture at once, refined."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
