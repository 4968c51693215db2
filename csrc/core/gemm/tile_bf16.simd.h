// The register tile of products in bfloat16: rows of A times two panels of B, both bfloat16, their
// products exact, the sums in float32. By AMX's tiles where the instruction set has them, otherwise
// by vdpbf16ps. Both flush subnormal numbers to zero.
//
// K is cut into steps of 32, filled up with zeros. An element of C is one chain over the steps
// (AMX: of a step's even elements' sum plus its odd elements' sum; vdpbf16ps: of pairs, the odd
// element first), so its bits depend on its row of A and its column of B alone.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// Elements of K in a step: a line of the cache of A, sixteen of a panel of B.
constexpr int kStep = 32;
constexpr int kTileHeight = 16;  // rows of A
// Elements of a tile of A and of one of B.
constexpr int kTileElements = kTileHeight * kStep;

// Most steps and elements of K in one pass: two panels of B then take 80 KB of the second-level
// cache. With passes of 512, which stay in the first-level cache, sums were read and written so
// often that K of 1280 and more took 1.4 times as long.
constexpr int kPassSteps = 40;
constexpr int kPass = kPassSteps * kStep;

// Rows of A, by tiles of kTileHeight: row r of tile t has the elements of step s at
// tile[t] + offset[s] + r * stride.
struct TileRows {
    const BFloat16* tile[2];
    int64_t stride;
    const int64_t* offset;
};

// What multiply_tiles calls before each step with its number: other work, which the CPU does while
// it multiplies.
struct Nothing {
    void operator()(int64_t) const {}
};

#ifdef __AMX_BF16__

// Of one thread, while it multiplies.
struct TileUnit {
    TileUnit() {
        alignas(64) uint8_t settings[64] = {};
        settings[0] = 1;  // palette: 8 tiles of at most 16 rows of 64 bytes
        for (int i = 0; i < 8; ++i) {
            settings[16 + 2 * i] = 64;
            settings[48 + i] = kTileHeight;
        }
        _tile_loadconfig(settings);
    }
    ~TileUnit() { _tile_release(); }
    TileUnit(const TileUnit&) = delete;
    TileUnit& operator=(const TileUnit&) = delete;
};

template <int Tiles, class Between>
PYENGINE_INLINE void multiply_whole(const TileRows& a, const BFloat16* b, int64_t b_stride,
                                    int64_t steps, float* c, int64_t c_stride, bool accumulate,
                                    const Between& between) {
    const int64_t c_bytes = c_stride * 4, a_bytes = a.stride * 2;
    float* below = c + kTileHeight * c_stride;
    // The intrinsics do not say that they read memory.
    __asm__ volatile("" ::: "memory");
    if (accumulate) {
        _tile_loadd(0, c, c_bytes);
        _tile_loadd(1, c + 16, c_bytes);
        if (Tiles == 2) {
            _tile_loadd(2, below, c_bytes);
            _tile_loadd(3, below + 16, c_bytes);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        if (Tiles == 2) {
            _tile_zero(2);
            _tile_zero(3);
        }
    }
    for (int64_t s = 0; s < steps; ++s, b += kTileElements) {
        between(s);
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a.tile[0] + a.offset[s], a_bytes);
        _tile_loadd(7, b + b_stride, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (Tiles == 2) {
            _tile_loadd(5, a.tile[1] + a.offset[s], a_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, c_bytes);
    _tile_stored(1, c + 16, c_bytes);
    if (Tiles == 2) {
        _tile_stored(2, below, c_bytes);
        _tile_stored(3, below + 16, c_bytes);
    }
    __asm__ volatile("" ::: "memory");
}

// C (+)= A B for at most 32 rows; of A and C whole tiles are read and written. b: [steps][16
// pairs][16][2], the second panel b_stride elements on. c: rows c_stride floats apart, the panels
// side by side.
template <class Between = Nothing>
PYENGINE_INLINE void multiply_tiles(const TileRows& a, int64_t rows, const BFloat16* b,
                                    int64_t b_stride, int64_t steps, float* c, int64_t c_stride,
                                    bool accumulate, const Between& between = {}) {
    rows > kTileHeight ? multiply_whole<2>(a, b, b_stride, steps, c, c_stride, accumulate, between)
                       : multiply_whole<1>(a, b, b_stride, steps, c, c_stride, accumulate, between);
}

#else

struct TileUnit {
    TileUnit() {}  // or compilers warn of an unused variable
};

template <int Count>
struct RowCount {
    static constexpr int value = Count;
};

// C (+)= A B for Count rows of a tile, whose sums share the registers with two panels' vectors.
template <int Count>
PYENGINE_INLINE void multiply_rows(const BFloat16* a, int64_t a_stride, const int64_t* offset,
                                   const BFloat16* b, int64_t b_stride, int64_t steps, float* c,
                                   int64_t c_stride, bool accumulate) {
    __m512 sums[Count][2];
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r)
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p)
            sums[r][p] =
                accumulate ? _mm512_loadu_ps(c + r * c_stride + p * 16) : _mm512_setzero_ps();
    for (int64_t s = 0; s < steps; ++s, b += kTileElements) {
        const BFloat16* step = a + offset[s];
        for (int pair = 0; pair < kStep / 2; ++pair) {
            __m512i weights[2];
#pragma GCC unroll 2
            for (int p = 0; p < 2; ++p)
                weights[p] = _mm512_loadu_si512(b + p * b_stride + pair * 32);
#pragma GCC unroll 8
            for (int r = 0; r < Count; ++r) {
                int32_t both;
                __builtin_memcpy(&both, step + r * a_stride + pair * 2, sizeof both);
                const __m512i left = _mm512_set1_epi32(both);
#pragma GCC unroll 2
                for (int p = 0; p < 2; ++p)
                    sums[r][p] = _mm512_dpbf16_ps(sums[r][p], (__m512bh)left, (__m512bh)weights[p]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Count; ++r)
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) _mm512_storeu_ps(c + r * c_stride + p * 16, sums[r][p]);
}

template <class Between = Nothing>
PYENGINE_INLINE void multiply_tiles(const TileRows& a, int64_t rows, const BFloat16* b,
                                    int64_t b_stride, int64_t steps, float* c, int64_t c_stride,
                                    bool accumulate, const Between& between = {}) {
    for (int64_t s = 0; s < steps; ++s) between(s);
    for (int64_t row = 0; row < rows;) {
        const BFloat16* from = a.tile[row / kTileHeight] + row % kTileHeight * a.stride;
        float* to = c + row * c_stride;
        const auto multiply = [&](auto count) {
            constexpr int kCount = decltype(count)::value;
            multiply_rows<kCount>(from, a.stride, a.offset, b, b_stride, steps, to, c_stride,
                                  accumulate);
            row += kCount;
        };
        if (rows - row >= 8)
            multiply(RowCount<8>{});
        else if (rows - row >= 4)
            multiply(RowCount<4>{});
        else
            multiply(RowCount<1>{});
    }
}

#endif

// Asks the first-level cache for the line that holds column `column` of each row.
PYENGINE_INLINE void fetch_lines(const void* first, int64_t stride, int64_t row, int64_t rows,
                                 int64_t column) {
    const BFloat16* from = static_cast<const BFloat16*>(first) + row * stride + column;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(from + r * stride);
}

// --- A -------------------------------------------------------------------------------------------

// n elements of a row to its places in the tiles of its steps, zeros after the last in its step.
PYENGINE_INLINE void spread_row(const BFloat16* from, int64_t n, BFloat16* to) {
    int64_t i = 0;
    for (; i + kStep <= n; i += kStep, to += kTileElements)
        _mm512_storeu_si512(to, _mm512_loadu_si512(from + i));
    if (i < n) {
        const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << (n - i)) - 1);
        _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(mask, from + i));
    }
}

// --- B -------------------------------------------------------------------------------------------

// What holds the pairs of two panels for `steps` steps, in elements.
constexpr int64_t pairs_elements(int64_t steps) {
    return 2 * steps * kTileElements;
}

// Of 16 elements and 16 others, each beside its partner.
PYENGINE_INLINE __m512i pair_order() {
    return _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                            6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
}

// [k][16] of a panel -> [steps][16][16][2]: elements 2i and 2i + 1 of a column side by side, zeros
// after the last.
PYENGINE_INLINE void pair_rows(const BFloat16* from, int64_t k, int64_t steps, BFloat16* to) {
    const __m512i turn = pair_order();
    int64_t i = 0;
    for (; i + 2 <= k; i += 2)
        _mm512_storeu_si512(to + i * 16,
                            _mm512_permutexvar_epi16(turn, _mm512_loadu_si512(from + i * 16)));
    if (i < k) {
        const __m512i last = _mm512_maskz_loadu_epi16(0xffff, from + i * 16);
        _mm512_storeu_si512(to + i * 16, _mm512_permutexvar_epi16(turn, last));
        i += 2;
    }
    for (; i < steps * kStep; i += 2) _mm512_storeu_si512(to + i * 16, _mm512_setzero_si512());
}

}  // namespace pyengine::PYENGINE_NS
