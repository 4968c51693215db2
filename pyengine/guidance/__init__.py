"""Guidance: how a model's outputs under several conditions make one output."""

from .methods import EMPTY, METHODS, Method
from .value import NEGATIVE, TEXT, Guidance, Term, classifier_free

__all__ = [
    "EMPTY",
    "METHODS",
    "NEGATIVE",
    "TEXT",
    "Guidance",
    "Method",
    "Term",
    "classifier_free",
]
