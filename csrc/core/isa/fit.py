"""Prints the polynomial coefficients in math.simd.h and math_bf16.simd.h.  Needs numpy and mpmath.

Chebyshev interpolation in 60 digits, then the leading coefficients' rounding to float32 is made up
for by refitting the rest: the error left is that of float32 arithmetic, not of the polynomial.
"""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def fit(f, low, high, degree, fixed=()):
    """Coefficients c0..cdegree, rounded to float32 one by one from c0; fixed ones first."""
    coefficients = [mp.mpf(float(c)) for c in fixed]
    n = 4 * (degree + 1)
    nodes = [
        (low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n))
        for k in range(n)
    ]
    values = [f(x) for x in nodes]
    while len(coefficients) <= degree:
        done = len(coefficients)
        rest = range(done, degree + 1)
        a = mp.matrix(n, len(rest))
        b = mp.matrix(n, 1)
        for row, (x, value) in enumerate(zip(nodes, values, strict=True)):
            for column, power in enumerate(rest):
                a[row, column] = x**power / value
            b[row] = (value - sum(c * x**i for i, c in enumerate(coefficients))) / value
        solution = mp.lu_solve(a, b)
        coefficients.append(mp.mpf(float(np.float32(float(solution[0])))))
    error = max(
        abs(sum(c * x**i for i, c in enumerate(coefficients)) / value - 1)
        for x, value in zip(nodes, values, strict=True)
    )
    return [float(c) for c in coefficients], float(error)


def least_squares(columns, values, rounds=250):
    """The float32 coefficients whose largest error is least: Lawson's weighted least squares."""
    weights, best = np.ones(len(values)), (np.inf, None)
    for _ in range(rounds):
        root = np.sqrt(weights)
        found = np.linalg.lstsq(columns * root[:, None], values * root, rcond=None)[0]
        error = abs(columns @ found - values)
        best = min(best, (error.max(), tuple(found)))
        weights = weights * (error + 1e-15)
        weights /= weights.sum()
    return np.array(best[1])


def bf16():
    """2^r, 0 <= r < 1, of degree 3; log2(Phi(x) / Phi(-x)), 0 <= x <= 5.6, odd, of degree 15."""
    r = (1 - np.cos(np.pi * (np.arange(500) + 0.5) / 500)) / 2
    found = least_squares(np.stack([r**k for k in range(4)], 1) / 2 ** r[:, None], np.ones(500))
    show("exp2_bf16", [float(np.float32(c)) for c in found], 7.5e-5)
    top, odd = 5.6, 2 * np.arange(8) + 1
    x = r * top
    t = np.array([float(mp.log(mp.ncdf(v) / mp.ncdf(-v), 2)) for v in x])
    found = least_squares((x / top)[:, None] ** odd, t) / top**odd
    show("gelu_bf16", [float(np.float32(c)) for c in found], 7.6e-5)


def show(name, coefficients, error):
    print(f"// {name}: relative error {error:.1e}")
    for i, c in enumerate(coefficients):
        print(f"  c{i} = {c!r} = {c.hex()}")


def main():
    # exp(r) for |r| <= ln(2)/2 plus the low part of a split argument.
    bound = mp.mpf("0.36")
    show("exp", *fit(mp.exp, -bound, bound, 6, fixed=(1.0, 1.0)))

    # 2^r for |r| <= 1/2.
    half = mp.mpf("0.5")
    show("exp2", *fit(lambda r: mp.mpf(2) ** r, -half, half, 6, fixed=(1.0,)))

    # erfc(g / sqrt 2) / 2 = exp(-g^2 / 2) * P(q) / (g + 4) with q = (g - 4) / (g + 4), 0 <= g <= 15
    # (after Shepherd & Laframboise 1981; of the centres 2, 3 and 4, 4 needs the lowest degree).
    def tail(q):
        g = 4 * (1 + q) / (1 - q)
        t = g / mp.sqrt(2)
        return (g + 4) * mp.erfc(t) * mp.exp(t * t) / 2

    show("tail", *fit(tail, mp.mpf(-1), mp.mpf(11) / 19, 9))

    bf16()


if __name__ == "__main__":
    main()
