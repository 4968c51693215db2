// exp, SiLU and GELU on vectors: within one, two and three units in the last place; GELU by tanh.
// 2^x for softmax. The coefficients come from fit.py beside this file.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// 2^n for -126 <= n <= 127.
PYENGINE_INLINE Floats power_of_two(Ints n) {
    return floats_of(((Bits)n + 127u) << 23);
}

// exp(x + low), where |low| <= 0.012: what a caller knows of its argument beyond float32.
// Infinite above 88.72, subnormal from -87.3 and zero from -103.98; NaN for NaN.
PYENGINE_INLINE Floats exp(Floats x, Floats low) {
    x = at_least(at_most(x, splat(89.0f)), splat(-104.0f));
    // n = round(x / ln 2): adding 1.5 * 2^23 leaves it in the last bits.
    const Floats shifter = splat(0x1.8p23f);
    const Floats shifted = fma(x, splat(0x1.715476p0f), shifter);
    const Floats n = shifted - shifter;
    const Ints exponent = (Ints)(bits_of(shifted) - bits_of(shifter));
    // ln 2 = 0x1.63p-1 - 0x1.bd0106p-13; the first has so few bits that n times it is exact.
    Floats r = fma(n, splat(-0x1.63p-1f), x);
    r = fma(n, splat(0x1.bd0106p-13f), r) + low;
    Floats p = splat(0x1.68089ap-10f);
    p = fma(p, r, splat(0x1.125306p-7f));
    p = fma(p, r, splat(0x1.555c98p-5f));
    p = fma(p, r, splat(0x1.55546ep-3f));
    p = fma(p, r, splat(0x1.fffff6p-2f));
    p = fma(p * r, r, r) + splat(1.0f);
    // In two factors, since 2^128 and 2^-150 are no floats but their products may be.
    const Ints half = exponent >> 1;
    return p * power_of_two(half) * power_of_two(exponent - half);
}

// 2^x for x at most 0, in place: what a softmax needs of exp. Down to -126 within 0.8 units in the
// last place, 1.1 without a fused multiply-add; zero below -126.5 (minus infinity too), NaN for
// NaN. Several vectors step by step, whose chains do not wait for each other: 2% faster than one.
template <int N>
PYENGINE_INLINE void exp2_to_one(Floats (&x)[N]) {
    // Adding 1.5 * 2^23 + 127 leaves 127 + round(x), which is 2^round(x)'s exponent, in the last
    // bits; for -127 that exponent means zero.
    const Floats shifter = splat(0x1.8000fep23f);
    constexpr int kDegree = 6;
    constexpr float kCoefficients[kDegree + 1] = {
        1.0f,           0x1.62e430p-1f,  0x1.ebfbd8p-3f,  0x1.c6af78p-5f,
        0x1.3b30b0p-7f, 0x1.5f0a66p-10f, 0x1.3f906cp-13f,
    };
    Floats power[N], p[N];
    for (int i = 0; i < N; ++i) {
        x[i] = at_least(x[i], splat(-127.0f));
        power[i] = x[i] + shifter;
        x[i] -= power[i] - shifter;
        p[i] = splat(kCoefficients[kDegree]);
    }
#pragma GCC unroll 8
    for (int k = kDegree - 1; k >= 0; --k)
        for (int i = 0; i < N; ++i) p[i] = fma(p[i], x[i], splat(kCoefficients[k]));
    for (int i = 0; i < N; ++i) x[i] = p[i] * floats_of(bits_of(power[i]) << 23);
}

// x / (1 + exp(-x)); like torch's: -0 far below zero, NaN at minus infinity.
PYENGINE_INLINE Floats silu(Floats x) {
    return x / (splat(1.0f) + exp(-x, Floats{}));
}

// x / (1 + exp(-1.702 x)): the sigmoid that stands for GELU in CLIP (Hendrycks & Gimpel 2016).
PYENGINE_INLINE Floats quick_gelu(Floats x) {
    const Floats factor = splat(-0x1.b3b646p0f), rest = splat(0x1.78d4fep-26f);  // -1.702
    const Floats z = at_least(at_most(x, splat(64.0f)), splat(-64.0f));
    const Floats product = factor * z;
    return x / (splat(1.0f) + exp(product, fma(factor, z, -product) + rest * z));
}

// What rounding left out of product = a * b, exactly, for magnitudes from 1e-15 to 1e15.
PYENGINE_INLINE Floats lost_by(Floats product, Floats a, Floats b) {
#ifdef __FMA__
    return fma(a, b, -product);
#else  // Dekker 1971: halves of 12 bits have exact products
    const Floats split = splat(4097.0f);
    const Floats a_upper = split * a - (split * a - a), a_lower = a - a_upper;
    const Floats b_upper = split * b - (split * b - b), b_lower = b - b_upper;
    return ((a_upper * b_upper - product) + a_upper * b_lower + a_lower * b_upper) +
           a_lower * b_lower;
#endif
}

// x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3): GELU with a tanh for Phi, as x (1 +
// tanh u) / 2 has it (Hendrycks & Gimpel 2016), whose lower tail here keeps its digits. exp's
// argument is -x (c0 + c1 x^2), of which every product's and the sum's rounding error goes along.
PYENGINE_INLINE Floats gelu_tanh(Floats x) {
    const Floats c0 = splat(0x1.988454p0f), c0_rest = splat(-0x1.857936p-25f);
    const Floats c1 = splat(0x1.2444f2p-4f), c1_rest = splat(0x1.49b16ap-29f);
    const Floats z = at_least(at_most(x, splat(16.0f)), splat(-16.0f));
    const Floats square = z * z;
    const Floats cubic = c1 * square;
    const Floats cubic_rest =
        lost_by(cubic, c1, square) + (c1 * lost_by(square, z, z) + c1_rest * square);
    const Floats sum = c0 + cubic, part = sum - c0;
    const Floats rest = ((c0 - (sum - part)) + (cubic - part)) + (cubic_rest + c0_rest);
    const Floats product = -z * sum;
    return x / (splat(1.0f) + exp(product, lost_by(product, -z, sum) - z * rest));
}

// x times the normal distribution's Phi(x) (Hendrycks & Gimpel 2016, arXiv:1606.08415).
// The lower tail, Phi(-a) = erfc(a / sqrt 2) / 2 = exp(-a^2 / 2) P(q) / (a + 4), is computed as
// such: 1 + erf(x / sqrt 2) would lose all its digits near -5.
PYENGINE_INLINE Floats gelu(Floats x) {
    Floats a = select(x < Floats{}, -x, x);
    a = at_most(a, splat(15.0f));  // there the tail is zero
    // a^2 to twice the precision: the upper 12 bits of a have an exact square.
    const Floats upper = floats_of(bits_of(a) & 0xfffff000u);
    const Floats half = splat(-0.5f);
    const Floats gauss = exp(half * upper * upper, half * (a - upper) * (a + upper));
    const Floats sum = a + splat(4.0f);
    const Floats q = (a - splat(4.0f)) / sum;
    Floats p = splat(-0x1.15059ap-13f);
    p = fma(p, q, splat(0x1.7306c0p-13f));
    p = fma(p, q, splat(0x1.9a5e9cp-10f));
    p = fma(p, q, splat(-0x1.cc85e4p-9f));
    p = fma(p, q, splat(-0x1.ed02ccp-8f));
    p = fma(p, q, splat(0x1.eed64ep-5f));
    p = fma(p, q, splat(-0x1.7e003ap-3f));
    p = fma(p, q, splat(0x1.8c6d90p-2f));
    p = fma(p, q, splat(-0x1.373e38p-1f));
    p = fma(p, q, splat(0x1.82b4bcp-1f));
    const Floats tail = gauss * p / sum;
    return x * select(x < Floats{}, tail, splat(1.0f) - tail);
}

}  // namespace pyengine::PYENGINE_NS
