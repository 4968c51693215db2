// Rounding of float32 to int8 under a scale: the same numbers on every instruction set.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// |value|'s bits, which as whole numbers have the order of the magnitudes, NaN's above all.
PYENGINE_INLINE Bits magnitude(Floats value) {
    return bits_of(value) & 0x7fffffffu;
}
PYENGINE_INLINE Bits larger(Bits a, Bits b) {
    return select((Ints)(a > b), a, b);
}

// What makes a row's numbers of its elements, and elements of its numbers. Of a row that holds NaN
// or infinity: 0 and NaN.
struct RowScale {
    float inverse, scale;
};

// most: the largest magnitude's bits, lane by lane.
PYENGINE_INLINE RowScale row_scale(Bits most) {
    uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits = most[i] > bits ? most[i] : bits;
    if (bits >= 0x7f800000u) return {0.0f, __builtin_nanf("")};
    float largest;
    __builtin_memcpy(&largest, &bits, sizeof largest);
    largest = largest < 0x1p-100f ? 0x1p-100f : largest;  // 127 / largest stays finite
    return {127.0f / largest, largest / 127.0f};
}

// Adding this rounds to a whole number, ties to even, and leaves it in the low bits.
constexpr float kRounder = 0x1.8p23f;

PYENGINE_INLINE void store_bytes(int8_t* to, Bits values) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)values));
#elif defined(__AVX2__) && PYENGINE_LANES == 8
    const __m256i order =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_shuffle_epi8((__m256i)values, order);
    const __m128i both =
        _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
#else
    const Bytes bytes = __builtin_convertvector((Ints)values, Bytes);
    __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

// n elements of a step of 64 as whole numbers, and zeros after them.
PYENGINE_INLINE void round_step(const float* from, int64_t n, float inverse, int8_t* to) {
    for (int64_t k = 0; k < 64; k += kLanes) {
        Bits rounded{};
        if (k + kLanes <= n)
            rounded = bits_of(load(from + k) * splat(inverse) + splat(kRounder));
        else if (k < n)
            rounded = bits_of(load(from + k, n - k) * splat(inverse) + splat(kRounder));
        store_bytes(to + k, rounded);
    }
}

// Whole numbers in memory as floats, rounded to nearest.
PYENGINE_INLINE Floats floats_at(const int32_t* from) {
    Ints values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Floats);
}

}  // namespace pyengine::PYENGINE_NS
