// SiLU and GELU for results that are rounded to bfloat16, by 2^-8 of their value at most: within
// 2^-12 of the exact value, or zero where that is below 3e-37, with half of the work of
// math.simd.h. The coefficients come from fit.py beside this file.
#pragma once

#include "isa/bfloat16.simd.h"

namespace pyengine::PYENGINE_NS {

// 2^x within 8e-5 of itself; infinite above 128, zero below -150, NaN for NaN.
PYENGINE_INLINE Floats exp2_bf16(Floats x) {
    // x - floor(x), zero at infinities; scalef takes floor(x) itself.
    const Floats r = (Floats)_mm512_reduce_ps((__m512)x, 0x09);
    Floats p = splat(0x1.3f969p-4f);
    p = fma(p, r, splat(0x1.cefc5cp-3f));
    p = fma(p, r, splat(0x1.64444ap-1f));
    p = fma(p, r, splat(0x1.fff632p-1f));
    return (Floats)_mm512_scalef_ps((__m512)p, (__m512)x);
}

// x / (1 + 2^t).
PYENGINE_INLINE Floats logistic_bf16(Floats x, Floats t) {
    return x / (splat(1.0f) + exp2_bf16(t));
}

PYENGINE_INLINE Floats silu_bf16(Floats x) {
    return logistic_bf16(x, x * splat(-0x1.715476p0f));
}

PYENGINE_INLINE Floats quick_gelu_bf16(Floats x) {
    return logistic_bf16(x, x * splat(-0x1.3a4cbep1f));
}

// GELU with a tanh for Phi: 1 / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
PYENGINE_INLINE Floats gelu_tanh_bf16(Floats x) {
    // Beyond it the tail is zero, and the cube would lose the sign of -infinity times it.
    const Floats z = at_least(at_most(x, splat(64.0f)), splat(-64.0f));
    const Floats t = fma(z * z, splat(-0x1.a5a7d0p-4f), splat(-0x1.26aec2p1f)) * z;
    return logistic_bf16(x, t);
}

// x Phi(x), Phi(x) = 1 / (1 + 2^t(x)) with t odd: of z = x within +-5.6 a polynomial, within 8e-5
// of t times ln 2. Beyond, where the tail is below 6e-8, t goes on in a line, so that it is within
// 2e-9 of it.
PYENGINE_INLINE Floats gelu_bf16(Floats x) {
    const Floats z = at_least(at_most(x, splat(5.6f)), splat(-5.6f));
    const Floats square = z * z;
    Floats p = splat(0x1.50b52ep-35f);
    p = fma(p, square, splat(-0x1.67ada6p-28f));
    p = fma(p, square, splat(0x1.3cdc64p-22f));
    p = fma(p, square, splat(-0x1.223a4ap-17f));
    p = fma(p, square, splat(0x1.04ffacp-13f));
    p = fma(p, square, splat(0x1.354848p-12f));
    p = fma(p, square, splat(-0x1.af5cc6p-4f));
    p = fma(p, square, splat(-0x1.26a448p1f));
    return logistic_bf16(x, fma(x - z, splat(-8.0f), p * z));
}

}  // namespace pyengine::PYENGINE_NS
