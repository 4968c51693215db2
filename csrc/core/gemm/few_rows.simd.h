// The register tile for a few rows of A and 8-bit weights. Of these a line of the cache holds four
// steps of K, and a step of two rows is four multiply-adds, each of which waits four cycles for the
// one before it: 16 bytes in that time are less than memory brings. So two chains are computed side
// by side where there are registers, and a line is asked for once.
//
// The chains are tile.simd.h's, added up in their order: the bits are the same.
#pragma once

#include "gemm/tile.simd.h"

namespace pyengine::PYENGINE_NS {

constexpr int kLineSteps = 64 / kPanel;

template <int Rows, int Vectors>
struct ChainSums {
    Floats of[Rows][Vectors];
};

// sums += elements [i, i + Steps) of K; b: weights of element 0.
template <int Steps, int Rows, int Panels>
PYENGINE_INLINE void add_steps(const float* a, const Int8* b, int64_t b_stride, int64_t i,
                               ChainSums<Rows, Panels * kPanelVectors>& sums) {
    constexpr int kVectors = Panels * kPanelVectors;
#pragma GCC unroll 2
    for (int p = 0; p < Panels; ++p)
        __builtin_prefetch(b + p * b_stride + i * kPanel + kStreamBytes);
#pragma GCC unroll 4
    for (int step = 0; step < Steps; ++step) {
        Floats weights[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
            weights[v] = load(b + (v / kPanelVectors) * b_stride + (i + step) * kPanel +
                              (v % kPanelVectors) * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            const Floats element = splat(a[r * kDepth + i + step]);
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v)
                sums.of[r][v] = fma(element, weights[v], sums.of[r][v]);
        }
    }
}

// Elements [begin[n], begin[n] + length[n]) of K for Chains chains, whose lengths differ by one at
// most: C (+)= each, in turn.
template <int Chains, int Rows, int Panels>
PYENGINE_INLINE void add_chains(const float* a, const Int8* b, int64_t b_stride,
                                const int64_t* begin, const int64_t* length, float* c,
                                int64_t c_stride, bool accumulate) {
    constexpr int kVectors = Panels * kPanelVectors;
    ChainSums<Rows, kVectors> sums[Chains] = {};
    int64_t common = length[0];
    for (int n = 1; n < Chains; ++n) common = length[n] < common ? length[n] : common;
    int64_t i = 0;
    for (; i + kLineSteps <= common; i += kLineSteps)
#pragma GCC unroll 2
        for (int n = 0; n < Chains; ++n)
            add_steps<kLineSteps, Rows, Panels>(a, b, b_stride, begin[n] + i, sums[n]);
    for (; i < common; ++i)
#pragma GCC unroll 2
        for (int n = 0; n < Chains; ++n)
            add_steps<1, Rows, Panels>(a, b, b_stride, begin[n] + i, sums[n]);
#pragma GCC unroll 2
    for (int n = 0; n < Chains; ++n)
        if (common < length[n])
            add_steps<1, Rows, Panels>(a, b, b_stride, begin[n] + common, sums[n]);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            float* to = c + r * c_stride + v * kLanes;
            Floats sum = accumulate ? sums[0].of[r][v] + load(to) : sums[0].of[r][v];
#pragma GCC unroll 2
            for (int n = 1; n < Chains; ++n) sum = sums[n].of[r][v] + sum;
            store(to, sum);
        }
}

// As tile().
template <int Rows, int Panels, int64_t Chain>
PYENGINE_INLINE void few_rows(const float* a, const Int8* b, int64_t b_stride, int64_t k, float* c,
                              int64_t c_stride, bool accumulate) {
    // The sums of two chains, a step's weights and an element have to fit into the registers.
    constexpr bool kPaired = Rows * Panels * kPanelVectors <= (kLanes == 16 ? 8 : 4);
    const int64_t chains = k > Chain ? (k + Chain - 1) / Chain : 1;
    for (int64_t chain = 0; chain < chains;) {
        const int64_t begin[2] = {k * chain / chains, k * (chain + 1) / chains};
        const int64_t length[2] = {begin[1] - begin[0], k * (chain + 2) / chains - begin[1]};
        const bool before = accumulate || chain > 0;
        if (kPaired && chain + 2 <= chains) {
            add_chains<2, Rows, Panels>(a, b, b_stride, begin, length, c, c_stride, before);
            chain += 2;
        } else {
            add_chains<1, Rows, Panels>(a, b, b_stride, begin, length, c, c_stride, before);
            ++chain;
        }
    }
}

// The same for 0 < rows <= Rows.
template <int Panels, int Rows, int64_t Chain>
PYENGINE_INLINE void few_rows_of(int64_t rows, const float* a, const Int8* b, int64_t b_stride,
                                 int64_t k, float* c, int64_t c_stride, bool accumulate) {
    if (rows == Rows)
        return few_rows<Rows, Panels, Chain>(a, b, b_stride, k, c, c_stride, accumulate);
    if constexpr (Rows > 1)
        few_rows_of<Panels, Rows - 1, Chain>(rows, a, b, b_stride, k, c, c_stride, accumulate);
}

}  // namespace pyengine::PYENGINE_NS
