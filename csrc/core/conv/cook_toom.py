"""Derives the matrices behind winograd_transforms.simd.h and prints them.  Needs numpy.

Minimal filtering F(m, r) (Winograd 1980; Lavin & Gray 2015, arXiv:1509.09308) from the Cook-Toom
algorithm: for m + r - 2 distinct points and infinity, y = A ((G g) * (B d)) are the m outputs of
the filter g (r taps) over d (m + r - 1 inputs), exactly.  Each row of B (or of G) and its column of
A may be scaled against each other; here B and G have no divisors and `divisors` go into A.

Also prints the largest error in float32, in standard deviations of the output, for sets of points.
"""

from fractions import Fraction

import numpy as np

POINTS = {4: (0, 1, -1, Fraction(1, 2), -2), 2: (0, 1, -1)}


def _times_root(polynomial, root):
    """polynomial(x) * (x - root), coefficients from the constant one up."""
    shifted = [Fraction(0), *polynomial]
    return [a - root * b for a, b in zip(shifted, [*polynomial, 0], strict=True)]


def cook_toom(points, m, r=3):
    """A [m][n], G [n][r], B [n][n], divisors [n], as lists of fractions; n = m + r - 1."""
    points = [Fraction(p) for p in points]
    assert len(points) == m + r - 2
    b, divisors = [], []
    for p in points:
        polynomial, divisor = [Fraction(1)], Fraction(1)
        for q in points:
            if q != p:
                polynomial = _times_root(polynomial, q)
                divisor *= p - q
        b.append([*polynomial, Fraction(0)])
        divisors.append(divisor)
    everything = [Fraction(1)]
    for p in points:
        everything = _times_root(everything, p)
    b.append(everything)
    divisors.append(Fraction(1))
    g = [[p**i for i in range(r)] for p in points] + [[Fraction(int(i == r - 1)) for i in range(r)]]
    a = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    return a, g, b, divisors


def error(points, m, channels=320, chain=160, tiles=128, seed=0):
    """Largest error over 16 output channels, in standard deviations of the output."""
    a, g, b, divisors = (np.array(x, dtype=float) for x in cook_toom(points, m))
    a, g, b = (x.astype(np.float32) for x in (a / divisors, g, b))
    random = np.random.default_rng(seed)
    side = m + 2
    d = random.standard_normal((tiles, channels, side, side)).astype(np.float32)
    w = random.standard_normal((16, channels, 3, 3)).astype(np.float32)
    v = np.einsum("ij,tcjk,lk->tcil", b, d, b, optimize=True)
    u = np.einsum("ij,ocjk,lk->ocil", g, w, g, optimize=True)
    products = np.zeros((tiles, 16, side, side), np.float32)
    for first in range(0, channels, chain):
        sums = np.zeros_like(products)
        for c in range(first, min(first + chain, channels)):
            sums += v[:, None, c] * u[None, :, c]
        products += sums
    y = np.einsum("ij,tojk,lk->toil", a, products, a, optimize=True)
    exact = np.zeros(y.shape)
    for i in range(m):
        for j in range(m):
            window = d[:, :, i : i + 3, j : j + 3].astype(float)
            exact[:, :, i, j] = np.tensordot(window, w.astype(float), ((1, 2, 3), (1, 2, 3)))
    return np.abs(y - exact).max() / exact.std()


def main():
    for m, points in POINTS.items():
        print(f"F({m}x{m}, 3x3): points {', '.join(map(str, points))} and infinity")
        for name, matrix in zip("AGB", cook_toom(points, m), strict=False):
            for row in matrix:
                print(f"  {name} ", *(f"{x!s:>6}" for x in row))
        print("  divisors", *cook_toom(points, m)[3])
    for m, points in [(2, POINTS[2]), (4, POINTS[4]), (4, (0, 1, -1, 2, -2))]:
        print(f"F({m}x{m}), {', '.join(map(str, points))}: error {error(points, m):.1e}")


if __name__ == "__main__":
    main()
