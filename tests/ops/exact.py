"""Activations by Python's math, a number at a time in float64: the measure of special values.

torch's functions are none there: its GELU through oneDNN is NaN at infinity and infinite at 3e38.
"""

import math

import torch


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0 * x if math.isnan(x) else 0.0


def silu(x):
    """x / (1 + exp(-x)); at minus infinity NaN, the product of minus infinity and 0."""
    return x * sigmoid(x)


def gelu(x):
    """x Phi(x); at minus infinity NaN, likewise."""
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def quick_gelu(x):
    """x / (1 + exp(-1.702 x))."""
    return x * sigmoid(1.702 * x)


def gelu_tanh(x):
    """x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    cube = max(min(x, 1e9), -1e9) ** 3
    return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * cube))


ACTIVATIONS = {
    "none": lambda x: x,
    "silu": silu,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "gelu_tanh": gelu_tanh,
}


def of_each(function, x):
    """function of each number of x, rounded once to x's dtype."""
    values = [function(value) for value in x.double().flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(x.shape).to(x.dtype)
