// The three transforms of F(4x4, 3x3) and F(2x2, 3x3) along one axis; cook_toom.py derives them.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// Points 0, 1, -1, 1/2, -2 and infinity. Against the textbook's 0, +-1, +-2 that halves the error
// (as Barabasz et al. 2020, arXiv:1803.10986, found for other sizes), and shared differences make
// it as cheap. The divisors are all in the output's transform, where they cost two multiplications.
template <int Output>
struct Winograd;

template <>
struct Winograd<4> {
    PYENGINE_INLINE void input(const Floats (&d)[6], Floats (&v)[6]) {
        const Floats three_halves = splat(1.5f), two = splat(2.0f);
        const Floats p = d[4] - d[2], q = d[3] - d[1];
        v[0] = fma(three_halves, q, (d[0] - d[2]) + p);
        v[1] = fma(three_halves, d[2] + d[3], p + q);
        v[2] = fma(three_halves, d[2] - d[3], q - p);
        v[3] = fma(two, q, p);
        v[4] = fma(splat(-0.5f), q, p);
        v[5] = fma(three_halves, p, (d[5] - d[3]) - q);
    }
    PYENGINE_INLINE void weights(const Floats (&g)[3], Floats (&u)[6]) {
        const Floats half = splat(0.5f), quarter = splat(0.25f);
        const Floats four = splat(4.0f), even = g[0] + g[2];
        u[0] = g[0];
        u[1] = even + g[1];
        u[2] = even - g[1];
        u[3] = fma(quarter, g[2], fma(half, g[1], g[0]));
        u[4] = fma(four, g[2], fma(splat(-2.0f), g[1], g[0]));
        u[5] = g[2];
    }
    PYENGINE_INLINE void output(const Floats (&m)[6], Floats (&y)[4]) {
        const Floats third = splat(1.0f / 3.0f);
        const Floats sum = third * (m[1] + m[2]), difference = third * (m[1] - m[2]);
        const auto rest = [&](float scale3, float scale4, Floats from) {
            return fma(splat(scale4), m[4], fma(splat(scale3), m[3], from));
        };
        y[0] = rest(-16.0f / 15, 1.0f / 15, m[0] + sum);
        y[1] = rest(-8.0f / 15, -2.0f / 15, difference);
        y[2] = rest(-4.0f / 15, 4.0f / 15, sum);
        y[3] = rest(-2.0f / 15, -8.0f / 15, m[5] + difference);
    }
};

// Points 0, 1, -1 and infinity; the divisors, powers of two, are in the weights' transform.
template <>
struct Winograd<2> {
    PYENGINE_INLINE void input(const Floats (&d)[4], Floats (&v)[4]) {
        v[0] = d[0] - d[2];
        v[1] = d[1] + d[2];
        v[2] = d[2] - d[1];
        v[3] = d[3] - d[1];
    }
    PYENGINE_INLINE void weights(const Floats (&g)[3], Floats (&u)[4]) {
        const Floats half = splat(0.5f), even = half * (g[0] + g[2]);
        u[0] = g[0];
        u[1] = fma(half, g[1], even);
        u[2] = fma(splat(-0.5f), g[1], even);
        u[3] = g[2];
    }
    PYENGINE_INLINE void output(const Floats (&m)[4], Floats (&y)[2]) {
        y[0] = m[0] + (m[1] + m[2]);
        y[1] = (m[1] - m[2]) + m[3];
    }
};

}  // namespace pyengine::PYENGINE_NS
