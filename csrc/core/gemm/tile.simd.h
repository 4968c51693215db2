// The register tile that GEMM, convolution and Winograd share: a few rows of A times panels of B.
//
// B lies in panels: 16 columns side by side, [K][16] float, for every instruction set, so that
// weights are packed once and read by all. A comes as a tile of rows, each kDepth floats after the
// one before: the distance is a constant, so that one pointer serves all rows. Whoever fills it
// applies prologues, gathers taps and converts dtypes on the way.
//
// Every element of C is a few chains of fused multiply-adds in the order of k, as K alone cuts it,
// added to what was there: its bits do not depend on how many rows or panels are computed beside
// it.
#pragma once

#include "isa/vector.simd.h"
#include "panel.h"

namespace pyengine::PYENGINE_NS {

// Most elements of K in one pass. The panels of B beside a tile then take 20 KB and a tile of A 8
// (9 with 16 lanes) of the first-level cache's 32 KB; it divides the widths of U-Nets: 320, 640,
// 1280, 2880.
constexpr int kDepth = kLanes == 16 ? 160 : 320;

// Most elements of K in one chain of multiply-adds: rounding errors grow with its length. Chains of
// 320 err up to 2.5 times as much as MKL at K = 320; of 160, which costs 1% of the speed, 1.5
// times. Matrix products have shorter ones.
constexpr int kChain = 160;

constexpr int kPanelVectors = kPanel / kLanes;
// Accumulators, a vector of each panel and one element of A: 6 x 2 + 2 + 1 of AVX2's 16 registers,
// 14 x 2 + 2 + 1 of AVX-512's 32, 3 x 4 + 4 of the portable 16 (elements come from memory there).
constexpr int kTileRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 3;
constexpr int kTilePanels = kLanes == 16 ? 2 : 1;

// A tile of few rows waits for B, mostly from memory: it asks for what lies this far ahead, since
// the CPU's own prefetching stops at every 4 KB.
constexpr int kStreamRows = 4;
constexpr int64_t kStreamBytes = 2048;

// Elements of K in one turn of the loop: with 8 lanes, 8 take 12% less time than one, 4 take 9%.
// Other instruction sets have not been timed.
constexpr int kUnroll = kLanes == 8 ? 8 : 1;

// C (+)= elements [begin, end) of K.
template <int Rows, int Panels, class W>
PYENGINE_INLINE void add_chain(const float* a, const W* b, int64_t b_stride, int64_t begin,
                               int64_t end, float* c, int64_t c_stride, bool accumulate) {
    constexpr int kVectors = Panels * kPanelVectors;
    Floats sums[Rows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[r][v] = Floats{};
#pragma GCC unroll kUnroll
    for (int64_t i = begin; i < end; ++i) {
        if constexpr (Rows <= kStreamRows)
#pragma GCC unroll 2
            for (int p = 0; p < Panels; ++p)
                __builtin_prefetch(reinterpret_cast<const char*>(b + p * b_stride + i * kPanel) +
                                   kStreamBytes);
        Floats weights[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
            weights[v] = load(b + (v / kPanelVectors) * b_stride + i * kPanel +
                              (v % kPanelVectors) * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r) {
            const Floats element = splat(a[r * kDepth + i]);
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(element, weights[v], sums[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            float* to = c + r * c_stride + v * kLanes;
            store(to, accumulate ? sums[r][v] + load(to) : sums[r][v]);
        }
}

// C[r][p * 16 + j] = (accumulate ? C : 0) + sum over i < k of A[r][i] B_p[i][j].
//
// a: [Rows] rows, kDepth apart. b: the first panel's [k][16]; the next lies b_stride floats on.
// c: rows c_stride floats apart, panels side by side.
// B may be of 16-bit floats, which are widened in registers.
template <int Rows, int Panels, int64_t Chain = kChain, class W>
PYENGINE_INLINE void tile(const float* a, const W* b, int64_t b_stride, int64_t k, float* c,
                          int64_t c_stride, bool accumulate) {
    const int64_t chains = k > Chain ? (k + Chain - 1) / Chain : 1;
    for (int64_t chain = 0, i = 0; chain < chains; ++chain) {
        const int64_t end = k * (chain + 1) / chains;
        add_chain<Rows, Panels>(a, b, b_stride, i, end, c, c_stride, accumulate || chain > 0);
        i = end;
    }
}

// The same for 0 < rows <= kTileRows and 0 < panels <= kTilePanels.
template <int Panels, int Rows = kTileRows, int64_t Chain = kChain, class W>
PYENGINE_INLINE void tile_of(int64_t rows, const float* a, const W* b, int64_t b_stride, int64_t k,
                             float* c, int64_t c_stride, bool accumulate) {
    if (rows == Rows) return tile<Rows, Panels, Chain>(a, b, b_stride, k, c, c_stride, accumulate);
    if constexpr (Rows > 1)
        tile_of<Panels, Rows - 1, Chain>(rows, a, b, b_stride, k, c, c_stride, accumulate);
}

}  // namespace pyengine::PYENGINE_NS
