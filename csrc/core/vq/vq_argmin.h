// The nearest codebook entry of each row (vector quantisation): a float32 search for candidates
// that provably hold the nearest, which float64 then decides. van den Oord et al. 2017,
// arXiv:1711.00937.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct VqArgminArgs {
    const void* x;          // [rows, stride]; each level has a slice of a row, or all of it
    const float* codebook;  // [levels, entries, width]
    int64_t rows, stride, width, entries, levels;
    bool cosine;
    bool residual;     // search for x minus the entries that the earlier levels chose
    int64_t* indices;  // [rows, levels]
    float* distances;  // likewise, or null
};

// One level of the codebook, as the kernel is given it: its entries against one slice of each row.
struct VqSearch : VqArgminArgs {
    int64_t level, offset;  // the slice begins at `offset` of each row

    // From vq_pack; null in a call of so few rows that packing would take longer than the search.
    // [panels, width + 1, entries of a panel]: half the squared norm of each entry, then the entry.
    const float* packed;
    const float* centre;           // [width], subtracted from entries and rows alike
    int64_t panels, group_panels;  // minima are kept per group of panels, and lane

    // Of the share: kVqBlock * (width + groups * entries of a panel) floats if packed; width +
    // lanes + kVqBlock doubles.
    float* tiles;
    double* row;
};

struct VqPackArgs {
    const float* codebook;  // [entries, width], of one level
    const float* centre;
    int64_t entries, width;
    bool cosine;
    float* packed;
};

// Items are rows, and panels.
constexpr int64_t kVqBlock = 96;        // rows searched together: theirs and the minima fit the L2
constexpr int64_t kVqGroups = 64;       // at most, so that a row's minima stay at 4 KB
constexpr int64_t kVqGroupPanels = 16;  // at least, so that the minima are few beside the scores
constexpr int64_t kVqVectors = 2;       // of a panel

void vq_argmin(const VqArgminArgs& args, DType dtype, int threads);

}  // namespace pyengine
