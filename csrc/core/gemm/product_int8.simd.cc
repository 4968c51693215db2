// Compiled once per kind of instruction; see CMakeLists.txt.
#include "gemm/product_int8.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace pyengine::PYENGINE_NS {

namespace {

#if defined(__AMX_INT8__)

void begin() {
    alignas(64) uint8_t settings[64] = {};
    settings[0] = 1;  // palette: 8 tiles of at most 16 rows of 64 bytes
    for (int i = 0; i < 8; ++i) {
        settings[16 + 2 * i] = 64;
        settings[48 + i] = kInt8TileRows;
    }
    // The intrinsic says that it reads 8 bytes; it reads all.
    __asm__ volatile("" : : "r"(settings) : "memory");
    _tile_loadconfig(settings);
}

void end() {
    _tile_release();
}

template <int Tiles, int Panels>
void multiply_tiles(const Int8Rows& a, const int8_t* b, int64_t b_stride, int64_t steps, int32_t* c,
                    bool accumulate) {
    constexpr int64_t kBytes = kInt8Columns * 4;
    int32_t* below = c + kInt8TileRows * kInt8Columns;
    // The intrinsics do not say that they read memory.
    __asm__ volatile("" ::: "memory");
    if (accumulate) {
        _tile_loadd(0, c, kBytes);
        if (Panels == 2) _tile_loadd(1, c + 16, kBytes);
        if (Tiles == 2) _tile_loadd(2, below, kBytes);
        if (Tiles == 2 && Panels == 2) _tile_loadd(3, below + 16, kBytes);
    } else {
        _tile_zero(0);
        if (Panels == 2) _tile_zero(1);
        if (Tiles == 2) _tile_zero(2);
        if (Tiles == 2 && Panels == 2) _tile_zero(3);
    }
    for (int64_t s = 0; s < steps; ++s, b += kInt8TileBytes) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a.tile[0] + a.offset[s], a.stride);
        _tile_dpbssd(0, 4, 6);
        if (Panels == 2) {
            _tile_loadd(7, b + b_stride, 64);
            _tile_dpbssd(1, 4, 7);
        }
        if (Tiles == 2) {
            _tile_loadd(5, a.tile[1] + a.offset[s], a.stride);
            _tile_dpbssd(2, 5, 6);
            if (Panels == 2) _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, c, kBytes);
    if (Panels == 2) _tile_stored(1, c + 16, kBytes);
    if (Tiles == 2) _tile_stored(2, below, kBytes);
    if (Tiles == 2 && Panels == 2) _tile_stored(3, below + 16, kBytes);
    __asm__ volatile("" ::: "memory");
}

void multiply(const Int8Rows& a, int64_t rows, const int8_t* b, int64_t b_stride, int panels,
              int64_t steps, int32_t* c, bool accumulate) {
    if (rows > kInt8TileRows)
        panels == 2 ? multiply_tiles<2, 2>(a, b, b_stride, steps, c, accumulate)
                    : multiply_tiles<2, 1>(a, b, b_stride, steps, c, accumulate);
    else
        panels == 2 ? multiply_tiles<1, 2>(a, b, b_stride, steps, c, accumulate)
                    : multiply_tiles<1, 1>(a, b, b_stride, steps, c, accumulate);
}

#else

void begin() {}
void end() {}

// Rows that share the registers with the vectors of Panels panels: kVectors of each.
#if defined(__AVX512VNNI__)

using Sums = __m512i;
constexpr int kVectors = 1, kRows = 8;

// Weights become unsigned by 128, which is taken from the sums by that of A's elements.
inline Sums weights_at(const int8_t* from) {
    return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8(-128));
}
inline Sums element(int32_t four) {
    return _mm512_set1_epi32(four);
}
inline Sums add_products(Sums sums, Sums weights, Sums a) {
    return _mm512_dpbusd_epi32(sums, weights, a);
}
inline Sums load(const int32_t* from) {
    return _mm512_loadu_si512(from);
}
inline void store(int32_t* to, Sums sums) {
    _mm512_storeu_si512(to, sums);
}
inline Sums splat(int32_t value) {
    return _mm512_set1_epi32(value);
}
inline int32_t sum_of_line(const int8_t* from, int32_t before) {
    const __m512i sums =
        _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_loadu_si512(from));
    return before + _mm512_reduce_add_epi32(sums);
}
constexpr bool kUnsigned = true;

#elif defined(__AVXVNNI__)

using Sums = __m256i;
constexpr int kVectors = 2, kRows = 3;

inline Sums weights_at(const int8_t* from) {
    return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
                            _mm256_set1_epi8(-128));
}
inline Sums element(int32_t four) {
    return _mm256_set1_epi32(four);
}
inline Sums add_products(Sums sums, Sums weights, Sums a) {
    return _mm256_dpbusd_avx_epi32(sums, weights, a);
}
inline Sums load(const int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline void store(int32_t* to, Sums sums) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums);
}
inline Sums splat(int32_t value) {
    return _mm256_set1_epi32(value);
}
inline int32_t sum_of_line(const int8_t* from, int32_t before) {
    for (int64_t i = 0; i < kInt8Step; ++i) before += from[i];
    return before;
}
constexpr bool kUnsigned = true;

#elif defined(__AVX2__)

// Products of 16-bit numbers: vpmaddubsw, of 8 bits, adds two of up to 2 * 255 * 127, too many.
// A vector has two sums of each of 4 outputs until it is stored.
using Sums = __m256i;
constexpr int kVectors = 4, kRows = 2;

inline Sums weights_at(const int8_t* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline Sums element(int32_t four) {
    return _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
}
inline Sums add_products(Sums sums, Sums weights, Sums a) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(weights, a));
}
// 4 sums, each beside a zero.
inline Sums load(const int32_t* from) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline void store(int32_t* to, Sums sums) {
    const __m256i added = _mm256_add_epi32(sums, _mm256_srli_epi64(sums, 32));
    const __m256i even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(added, even)));
}
inline Sums splat(int32_t) {
    return _mm256_setzero_si256();
}
constexpr bool kUnsigned = false;

#else

struct Sums {
    int32_t value[4];
};
struct Fours {
    int16_t value[16];
};
constexpr int kVectors = 4, kRows = 2;

inline Fours weights_at(const int8_t* from) {
    Fours found;
    for (int i = 0; i < 16; ++i) found.value[i] = from[i];
    return found;
}
inline Fours element(int32_t four) {
    int8_t bytes[4];
    __builtin_memcpy(bytes, &four, sizeof bytes);
    Fours found;
    for (int i = 0; i < 16; ++i) found.value[i] = bytes[i % 4];
    return found;
}
inline Sums add_products(Sums sums, const Fours& weights, const Fours& a) {
    for (int i = 0; i < 4; ++i)
        for (int k = 4 * i; k < 4 * i + 4; ++k) sums.value[i] += weights.value[k] * a.value[k];
    return sums;
}
inline Sums load(const int32_t* from) {
    Sums sums;
    __builtin_memcpy(&sums, from, sizeof sums);
    return sums;
}
inline void store(int32_t* to, const Sums& sums) {
    __builtin_memcpy(to, &sums, sizeof sums);
}
inline Sums splat(int32_t) {
    return {};
}
constexpr bool kUnsigned = false;

#endif

constexpr int kBytes = static_cast<int>(kInt8Step) / kVectors;  // of weights in a vector

// Count rows from `a` on, stride bytes apart.
template <int Count, int Panels>
void multiply_rows(const int8_t* a, const Int8Rows& lines, const int8_t* b, int64_t b_stride,
                   int64_t steps, int32_t* c, bool accumulate) {
    constexpr int kAll = Panels * kVectors, kWidth = 16 / kVectors;
    Sums sums[Count][kAll];
    for (int r = 0; r < Count; ++r) {
        int32_t begin = 0;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
        for (int64_t s = 0; s < steps; ++s)
            begin = sum_of_line(a + lines.offset[s] + r * lines.stride, begin);
        begin *= -128;
#endif
        for (int v = 0; v < kAll; ++v) sums[r][v] = splat(begin);
        if (!accumulate) continue;
        for (int v = 0; v < kAll; ++v) {
            const Sums before = load(c + r * kInt8Columns + v * kWidth);
#if defined(__AVX512VNNI__)
            sums[r][v] = _mm512_add_epi32(sums[r][v], before);
#elif defined(__AVXVNNI__)
            sums[r][v] = _mm256_add_epi32(sums[r][v], before);
#else
            sums[r][v] = before;
#endif
        }
    }
    for (int64_t s = 0; s < steps; ++s, b += kInt8TileBytes) {
        const int8_t* line = a + lines.offset[s];
        for (int four = 0; four < 16; ++four) {
            const int8_t* from = b + four * kInt8Step;
            decltype(weights_at(from)) weights[kAll];
#pragma GCC unroll 8
            for (int v = 0; v < kAll; ++v)
                weights[v] = weights_at(from + v / kVectors * b_stride + v % kVectors * kBytes);
#pragma GCC unroll 8
            for (int r = 0; r < Count; ++r) {
                int32_t value;
                __builtin_memcpy(&value, line + r * lines.stride + four * 4, sizeof value);
                const auto left = element(value);
#pragma GCC unroll 8
                for (int v = 0; v < kAll; ++v)
                    sums[r][v] = add_products(sums[r][v], weights[v], left);
            }
        }
    }
    for (int r = 0; r < Count; ++r)
        for (int v = 0; v < kAll; ++v) store(c + r * kInt8Columns + v * kWidth, sums[r][v]);
}

template <int Panels>
void multiply_panels(const Int8Rows& a, int64_t rows, const int8_t* b, int64_t b_stride,
                     int64_t steps, int32_t* c, bool accumulate) {
    for (int64_t row = 0; row < rows;) {
        const int8_t* from = a.tile[row / kInt8TileRows] + row % kInt8TileRows * a.stride;
        int32_t* to = c + row * kInt8Columns;
        const int64_t in_tile = kInt8TileRows - row % kInt8TileRows;
        if (rows - row >= kRows && in_tile >= kRows) {
            multiply_rows<kRows, Panels>(from, a, b, b_stride, steps, to, accumulate);
            row += kRows;
        } else {
            multiply_rows<1, Panels>(from, a, b, b_stride, steps, to, accumulate);
            row += 1;
        }
    }
}

void multiply(const Int8Rows& a, int64_t rows, const int8_t* b, int64_t b_stride, int panels,
              int64_t steps, int32_t* c, bool accumulate) {
    panels == 2 ? multiply_panels<2>(a, rows, b, b_stride, steps, c, accumulate)
                : multiply_panels<1>(a, rows, b, b_stride, steps, c, accumulate);
}

#endif

}  // namespace

extern const Int8Product kProduct;
const Int8Product kProduct = {
    .name = PYENGINE_ISA_NAME, .begin = begin, .end = end, .multiply = multiply};

}  // namespace pyengine::PYENGINE_NS
