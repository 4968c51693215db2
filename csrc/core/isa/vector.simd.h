// A vector of PYENGINE_LANES floats over the compiler's vector extensions: loads and stores for
// each element type, fused multiply-add, selection, sums.
//
// Only for *.simd.cc, which is compiled once per instruction set: everything here lives in that
// set's namespace and is always inlined, so that no function compiled for one CPU can be linked
// into the code for another. For the same reason nothing from std:: is used.
#pragma once

#ifndef PYENGINE_NS
#error "only files named *.simd.cc may include this; see csrc/core/CMakeLists.txt"
#endif

#include <stddef.h>
#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "dtype.h"
#include "kernels.h"

#define PYENGINE_INLINE static inline __attribute__((always_inline))

namespace pyengine::PYENGINE_NS {

constexpr int kLanes = PYENGINE_LANES;

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2)));
typedef int8_t Bytes __attribute__((vector_size(kLanes)));

PYENGINE_INLINE Floats splat(float value) {
    return value - Floats{};  // not +: that turns -0 into 0 and takes an instruction
}
PYENGINE_INLINE Bits splat_bits(uint32_t value) {
    return Bits{} + value;
}
PYENGINE_INLINE Bits bits_of(Floats value) {
    return (Bits)value;
}
PYENGINE_INLINE Floats floats_of(Bits value) {
    return (Floats)value;
}

// mask ? a : b, lane by lane; a mask is what a comparison returns.
PYENGINE_INLINE Floats select(Ints mask, Floats a, Floats b) {
    return mask ? a : b;
}
PYENGINE_INLINE Bits select(Ints mask, Bits a, Bits b) {
    return mask ? a : b;
}

// The smaller (larger) of the two, and value where value is NaN: what the x86 instructions do with
// the operands in this order, though compilers do not see it.
PYENGINE_INLINE Floats at_most(Floats value, Floats high) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return (Floats)_mm512_min_ps((__m512)high, (__m512)value);
#elif defined(__AVX2__) && PYENGINE_LANES == 8
    return (Floats)_mm256_min_ps((__m256)high, (__m256)value);
#else
    return select(high < value, high, value);
#endif
}
PYENGINE_INLINE Floats at_least(Floats value, Floats low) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return (Floats)_mm512_max_ps((__m512)low, (__m512)value);
#elif defined(__AVX2__) && PYENGINE_LANES == 8
    return (Floats)_mm256_max_ps((__m256)low, (__m256)value);
#else
    return select(low > value, low, value);
#endif
}

// value where it is above zero, value * slope elsewhere, NaN for NaN.
PYENGINE_INLINE Floats leak(Floats value, Floats slope) {
    return select(value > Floats{}, value, value * slope);
}

// a * b + c, rounded once where the CPU can, twice in the portable build.
PYENGINE_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && PYENGINE_LANES == 8
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    Floats result;
    for (int i = 0; i < kLanes; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return result;
#else
    return a * b + c;
#endif
}

// --- element types ---------------------------------------------------------------------------

// 16-bit integers to 32 bits and back; compilers make more of the conversion than is needed.
PYENGINE_INLINE Bits extend(Halves values) {
#if defined(__AVX2__) && PYENGINE_LANES == 8
    return (Bits)_mm256_cvtepu16_epi32((__m128i)values);
#else
    return __builtin_convertvector(values, Bits);
#endif
}
PYENGINE_INLINE Halves truncate(Bits values) {  // all below 2^16
#if defined(__AVX2__) && PYENGINE_LANES == 8
    const __m256i all = (__m256i)values;
    return (Halves)_mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
#else
    return __builtin_convertvector(values, Halves);
#endif
}

PYENGINE_INLINE Floats widen(Halves values, BFloat16) {
    return floats_of(extend(values) << 16);
}

// Rounds to nearest, ties to even; a NaN becomes the quiet one.
PYENGINE_INLINE Halves narrow(Floats value, BFloat16) {
    const Bits bits = bits_of(value);
    const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return truncate(select(value != value, splat_bits(0x7fc0), rounded));
}

PYENGINE_INLINE Floats widen(Halves values, Float16) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return (Floats)_mm512_cvtph_ps((__m256i)values);
#elif defined(__F16C__) && PYENGINE_LANES == 8
    return (Floats)_mm256_cvtph_ps((__m128i)values);
#else
    const Bits wide = extend(values);
    const Bits sign = (wide & 0x8000u) << 16, magnitude = wide & 0x7fffu;
    // Exponents are biased by 15 there and by 127 here; infinities and NaNs get the largest one.
    Bits normal = (magnitude << 13) + (uint32_t{127 - 15} << 23);
    normal = select(magnitude >= splat_bits(0x7c00), normal + (uint32_t{128 - 16} << 23), normal);
    // A subnormal's bits, put under the exponent of 2^-14, are 2^-14 too much.
    const Bits two_to_minus_14 = splat_bits(uint32_t{127 - 14} << 23);
    const Floats subnormal =
        floats_of((magnitude << 13) + two_to_minus_14) - floats_of(two_to_minus_14);
    return floats_of(select(magnitude < splat_bits(0x0400), bits_of(subnormal), normal) | sign);
#endif
}

// Rounds to nearest, ties to even; what is too large becomes infinity.
PYENGINE_INLINE Halves narrow(Floats value, Float16) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return (Halves)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__) && PYENGINE_LANES == 8
    return (Halves)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
    const Bits bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    const Bits normal =
        (magnitude - (uint32_t{127 - 15} << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Adding 0.5, whose last bit is 2^-24, rounds to a multiple of the smallest subnormal.
    const Bits half = splat_bits(0x3f000000);
    const Bits subnormal = bits_of(floats_of(magnitude) + floats_of(half)) - half;
    Bits result = select(magnitude < splat_bits(uint32_t{127 - 14} << 23), subnormal, normal);
    result = select(magnitude >= splat_bits(0x477ff000), splat_bits(0x7c00), result);  // 65520
    result = select(magnitude > splat_bits(0x7f800000), splat_bits(0x7e00), result);
    return truncate(result | ((bits >> 16) & 0x8000u));
#endif
}

PYENGINE_INLINE Floats load(const float* from) {
    Floats value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

PYENGINE_INLINE Floats load(const Int8* from) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values));
#elif defined(__AVX2__) && PYENGINE_LANES == 8
    const __m128i values = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values));
#else
    Bytes values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Floats);
#endif
}

template <class T>
PYENGINE_INLINE Floats load(const T* from) {
    Halves values;
    __builtin_memcpy(&values, from, sizeof values);
    return widen(values, T{});
}

PYENGINE_INLINE void store(float* to, Floats value) {
    __builtin_memcpy(to, &value, sizeof value);
}

template <class T>
PYENGINE_INLINE void store(T* to, Floats value) {
    const Halves values = narrow(value, T{});
    __builtin_memcpy(to, &values, sizeof values);
}

// Calls use with a value of the type that a DType of activations names.
template <class Use>
PYENGINE_INLINE void with_type(DType dtype, const Use& use) {
    if (dtype == DType::float32) return use(float{});
    if (dtype == DType::bfloat16) return use(BFloat16{});
    use(Float16{});
}

// --- parts of a vector -----------------------------------------------------------------------

// On AVX-512 by masked loads and stores; elsewhere by way of a padded copy, which the vector's load
// then waits for (its bytes are still being stored).
#if defined(__AVX512F__) && PYENGINE_LANES == 16
PYENGINE_INLINE __mmask16 mask_of(int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1);
}
PYENGINE_INLINE Floats load_masked(const float* from, __mmask16 mask) {
    return (Floats)_mm512_maskz_loadu_ps(mask, from);
}
PYENGINE_INLINE Floats load_masked(const Int8* from, __mmask16 mask) {
    const __m128i values = _mm_maskz_loadu_epi8(mask, from);
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(values));
}
template <class T>
PYENGINE_INLINE Floats load_masked(const T* from, __mmask16 mask) {
    return widen((Halves)_mm256_maskz_loadu_epi16(mask, from), T{});
}
PYENGINE_INLINE void store_masked(float* to, Floats value, __mmask16 mask) {
    _mm512_mask_storeu_ps(to, mask, (__m512)value);
}
template <class T>
PYENGINE_INLINE void store_masked(T* to, Floats value, __mmask16 mask) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)narrow(value, T{}));
}
#endif

// The first `count` lanes only, 0 < count < kLanes; memory beyond them is not touched, and the
// other lanes are read as zero.
template <class T>
PYENGINE_INLINE Floats load(const T* from, int64_t count) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return load_masked(from, mask_of(count));
#else
    T padded[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
    return load(padded);
#endif
}

template <class T>
PYENGINE_INLINE void store(T* to, Floats value, int64_t count) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    store_masked(to, value, mask_of(count));
#else
    T padded[kLanes];
    store(padded, value);
    for (int64_t i = 0; i < count; ++i) to[i] = padded[i];
#endif
}

// value with the lanes from `count` on set to zero.
PYENGINE_INLINE Floats first_lanes(Floats value, int64_t count) {
    Ints lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    return select(lane < (Ints{} + static_cast<int32_t>(count)), value, Floats{});
}

// The sum of the lanes, halves added to halves: one fixed order.
PYENGINE_INLINE float sum(Floats value) {
#if PYENGINE_LANES == 16
    value +=
        __builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    value +=
        __builtin_shufflevector(value, value, 4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15);
    value +=
        __builtin_shufflevector(value, value, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif PYENGINE_LANES == 8
    value += __builtin_shufflevector(value, value, 4, 5, 6, 7, 0, 1, 2, 3);
    value += __builtin_shufflevector(value, value, 2, 3, 0, 1, 4, 5, 6, 7);
#else
    value += __builtin_shufflevector(value, value, 2, 3, 0, 1);
#endif
    return value[0] + value[1];
}

// Calls step(c, full) for each whole vector of [0, n), then once for what is left: full is an empty
// tag for whole vectors and the count of lanes for the rest, to be passed on to load and store.
struct Whole {};
template <class T>
PYENGINE_INLINE Floats load(const T* from, Whole) {
    return load(from);
}
template <class T>
PYENGINE_INLINE void store(T* to, Floats value, Whole) {
    store(to, value);
}
PYENGINE_INLINE Floats first_lanes(Floats value, Whole) {
    return value;
}

template <class Step>
PYENGINE_INLINE void for_vectors(int64_t n, const Step& step) {
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) step(c, Whole{});
    if (c < n) step(c, n - c);
}

// The same with step(c, full, chain), chain running over 0..kChains-1: sums kept apart by it need
// not wait for each other.
constexpr int kChains = 4;
template <class Step>
PYENGINE_INLINE void for_vectors_in_chains(int64_t n, const Step& step) {
    int64_t c = 0;
    for (; c + kChains * kLanes <= n; c += kChains * kLanes)
        for (int chain = 0; chain < kChains; ++chain) step(c + chain * kLanes, Whole{}, chain);
    for (; c + kLanes <= n; c += kLanes) step(c, Whole{}, 0);
    if (c < n) step(c, n - c, 0);
}

PYENGINE_INLINE float sum(const Floats (&chains)[kChains]) {
    return sum((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

}  // namespace pyengine::PYENGINE_NS
