// The weights of a pass of a direct convolution: where they lie, or made of those that were given.
#pragma once

#include "conv/direct.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"

namespace pyengine::PYENGINE_NS {

struct Range {
    int64_t begin, end;
};

// Adds `count` weights of one tap to sums, or sets them.
template <class W>
PYENGINE_INLINE void add_weights(const W* from, int64_t count, bool first, float* sums) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const Floats w = load(from + i);
        store(sums + i, first ? w : load(sums + i) + w);
    }
}

// The taps of 3 that tap s of the 2 stands for, in output rows (or columns) of one parity.
PYENGINE_INLINE Range merged_taps(int64_t parity, int64_t s) {
    return s == 0 ? Range{0, parity + 1} : Range{parity + 1, 3};
}

// Where tap `tap` of a parity's 2x2 lies among the 4x4 of a transposed convolution: output row 2m +
// a is rows m - 1 + a and m + a times the taps' rows 3 - a and 1 - a.
PYENGINE_INLINE int64_t transposed_tap(int64_t tap, int64_t parity) {
    return (3 - 2 * (tap / 2) - parity / 2) * 4 + 3 - 2 * (tap % 2) - parity % 2;
}

// [depth][16] of a panel from element `from` of its K, summed over the taps that a parity merges;
// of a transposed convolution the taps that are the parity's.
template <class W>
void merge_weights(const DirectArgs& direct, int64_t panel, int64_t parity, int64_t from,
                   int64_t depth, float* out) {
    const Conv2dArgs& conv = direct.conv;
    const int64_t channels = conv.channels + conv.channels2;
    const int64_t taps = conv.transposed ? 16 : 9;
    const W* weight = static_cast<const W*>(conv.weight) + panel * taps * channels * kPanel;
    for (int64_t k = from; k < from + depth;) {
        const int64_t tap = k / channels, channel = k - tap * channels;
        const int64_t count = least(channels - channel, from + depth - k);
        if (conv.transposed) {
            add_weights(weight + (transposed_tap(tap, parity) * channels + channel) * kPanel,
                        count * kPanel, true, out);
            out += count * kPanel;
            k += count;
            continue;
        }
        const Range rows = merged_taps(parity / 2, tap / 2);
        const Range columns = merged_taps(parity % 2, tap % 2);
        bool first = true;
        for (int64_t row = rows.begin; row < rows.end; ++row)
            for (int64_t column = columns.begin; column < columns.end; ++column, first = false)
                add_weights(weight + ((row * 3 + column) * channels + channel) * kPanel,
                            count * kPanel, first, out);
        out += count * kPanel;
        k += count;
    }
}

// The same of a transposed convolution whose four parities' outputs lie side by side in one panel,
// zeros behind them.
template <class W>
void join_weights(const DirectArgs& direct, int64_t from, int64_t depth, float* out) {
    const Conv2dArgs& conv = direct.conv;
    const int64_t channels = conv.channels + conv.channels2, outputs = conv.channels_out;
    const W* weight = static_cast<const W*>(conv.weight);
    for (int64_t k = from; k < from + depth; ++k, out += kPanel) {
        const int64_t tap = k / channels, channel = k - tap * channels;
        for (int64_t at = 4 * outputs; at < kPanel; ++at) out[at] = 0;
        for (int64_t parity = 0; parity < 4; ++parity) {
            const W* given = weight + (transposed_tap(tap, parity) * channels + channel) * kPanel;
            for_vectors(outputs, [&](int64_t o, auto lanes) {
                store(out + parity * outputs + o, load(given + o, lanes), lanes);
            });
        }
    }
}

template <class W>
void widen_weights(const DirectArgs& direct, int64_t panel, int64_t from, int64_t depth,
                   float* out) {
    const W* weight = static_cast<const W*>(direct.conv.weight);
    add_weights(weight + (panel * direct.shape.depth + from) * kPanel, depth * kPanel, true, out);
}

template <class W>
void make_weights(const DirectArgs& direct, int64_t panel, int64_t parity, int64_t from,
                  int64_t depth, float* out) {
    if (direct.shape.joined) return join_weights<W>(direct, from, depth, out);
    if (direct.shape.parities) return merge_weights<W>(direct, panel, parity, from, depth, out);
    widen_weights<W>(direct, panel, from, depth, out);
}

struct Weights {
    const float* first;
    int64_t stride;  // from panel to panel
};

// Whether weights_of finds what it is asked for as it was given.
PYENGINE_INLINE bool as_given(const DirectArgs& direct, int64_t from, int64_t depth) {
    if (direct.conv.weight_dtype != DType::float32 || direct.shape.joined) return false;
    if (!direct.shape.parities) return true;
    const int64_t channels = direct.conv.channels + direct.conv.channels2;
    return direct.conv.transposed && from % channels + depth <= channels;  // of one tap
}

// `count` panels' [depth][16] from element `from` of K on: where they are, or made in `scratch`.
PYENGINE_INLINE Weights weights_of(const DirectArgs& direct, int64_t panel, int64_t count,
                                   int64_t parity, int64_t from, int64_t depth, float* scratch) {
    if (as_given(direct, from, depth)) {
        const float* weight = static_cast<const float*>(direct.conv.weight);
        if (!direct.shape.parities)
            return {weight + (panel * direct.shape.depth + from) * kPanel,
                    direct.shape.depth * kPanel};
        const int64_t channels = direct.conv.channels + direct.conv.channels2;
        const int64_t tap = from / channels, taps = 16;
        return {
            weight + ((panel * taps + transposed_tap(tap, parity)) * channels + from % channels) *
                         kPanel,
            taps * channels * kPanel};
    }
    for (int64_t i = 0; i < count; ++i) {
        float* out = scratch + i * kDepth * kPanel;
        with_type(direct.conv.weight_dtype, [&](auto w) {
            make_weights<decltype(w)>(direct, panel + i, parity, from, depth, out);
        });
    }
    return {scratch, kDepth * kPanel};
}

// Asks for part `part` of `parts` of what weights_of will read next, while tiles are computed:
// weights come from memory once, and a tile computes as long as 5 KB take from there.
PYENGINE_INLINE void prefetch_weights(const DirectArgs& direct, int64_t panel, int64_t count,
                                      int64_t from, int64_t depth, int64_t part, int64_t parts) {
    const int64_t size = size_of(direct.conv.weight_dtype);
    const int64_t bytes = depth * kPanel * size;
    for (int64_t i = 0; i < count; ++i) {
        const char* first = static_cast<const char*>(direct.conv.weight) +
                            ((panel + i) * direct.shape.depth + from) * kPanel * size;
        const int64_t end = bytes * (part + 1) / parts;
        for (int64_t at = bytes * part / parts / 64 * 64; at < end; at += 64)
            __builtin_prefetch(first + at, 0, 2);
    }
}

}  // namespace pyengine::PYENGINE_NS
