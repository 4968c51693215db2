// A group of queries side by side in the lanes, [rows, kGroup] float: what every way to compute
// attention does to its scores and its result.
#pragma once

#include "attention/attention.h"
#include "isa/transpose.simd.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

constexpr int kVectors = kGroupVectors;
constexpr int kGroup = kVectors * kLanes;

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 0x1.715476p0f;

// Adds the mask, hides from each query the keys after it, and finds the largest scores anew.
static void hide(const AttentionArgs& args, const float* mask, int64_t query, int64_t key,
                 int64_t n, float* s, Floats (&most)[kVectors]) {
    Ints lane_of[kVectors];
    for (int j = 0; j < kVectors; ++j) {
        for (int lane = 0; lane < kLanes; ++lane) lane_of[j][lane] = j * kLanes + lane;
        most[j] = splat(-kInfinity);
    }
    for (int64_t i = 0; i < n; ++i) {
        float add[kGroup] = {};
        if (mask) {
            const float* column = mask + (key + i) * args.mask_step[3];
            for (int lane = 0; lane < kGroup; ++lane) {
                const int64_t row = query + lane < args.queries ? query + lane : args.queries - 1;
                add[lane] = column[row * args.mask_step[2]];
            }
        }
        // The first lanes, of queries before this key. Set, not added: a hidden score may be NaN.
        const int64_t before = args.causal ? key + i - query : 0;
        const Ints hidden = Ints{} + static_cast<int32_t>(before < 0        ? 0
                                                          : before < kGroup ? before
                                                                            : kGroup);
        for (int j = 0; j < kVectors; ++j) {
            float* at = s + i * kGroup + j * kLanes;
            const Floats sum = load(at) + load(add + j * kLanes);
            const Floats score = select(lane_of[j] < hidden, splat(-kInfinity), sum);
            store(at, score);
            most[j] = at_least(score, most[j]);
        }
    }
}

// The way back: columns [width, kGroup], times factor, into rows of y.
template <class T>
static void store_columns(const float* from, const Floats (&factor)[kVectors], int64_t width, T* y,
                          int64_t step, int64_t rows) {
    for (int j = 0; j < kVectors; ++j)
        for_vectors(width, [&](int64_t c, auto lanes) {
            Floats block[kLanes];
            const int64_t left = width - c;
            for (int i = 0; i < kLanes; ++i)
                block[i] =
                    i < left ? load(from + (c + i) * kGroup + j * kLanes) * factor[j] : Floats{};
            transpose(block);
            for (int i = 0; i < kLanes; ++i)
                if (j * kLanes + i < rows) store(y + (j * kLanes + i) * step + c, block[i], lanes);
        });
}

}  // namespace pyengine::PYENGINE_NS
