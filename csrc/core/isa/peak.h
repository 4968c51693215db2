// The rate at which this CPU multiplies and adds float32: what products are bound by.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <vector>

#include "check.h"
#include "isa/peak_args.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

struct Peak {
    int64_t operations;  // a multiplication and an addition count as two
    float last;          // as PeakArgs'
};

// Sixteen items for each thread, so that one which starts late leaves the others enough to do, of
// `turns` multiply-adds of each chain, all in registers. Throws std::invalid_argument for turns
// below 0 and more than can be counted.
inline Peak multiply_adds(int64_t turns, int threads) {
    const int64_t items = 16 * int64_t{std::max(threads, 1)}, lanes = table().lanes;
    const int64_t operations = checked_count("multiply_adds", turns, items, kPeakChains * lanes, 2);
    std::vector<float> last(static_cast<size_t>(items));
    const PeakArgs args{turns, last.data()};
    parallel_for(items, 1, threads,
                 [&](int64_t begin, int64_t end) { table().multiply_adds(args, begin, end); });
    return {operations, *std::min_element(last.begin(), last.end())};
}

}  // namespace pyengine
