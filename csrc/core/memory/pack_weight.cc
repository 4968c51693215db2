#include "memory/pack_weight.h"

#include <algorithm>
#include <cstring>

#include "check.h"
#include "parallel.h"

namespace pyengine {

namespace {

// Elements of 16 rows that are turned around together: 18 KB of float32 stay in the first-level
// cache.
constexpr int64_t kBlock = 288;

template <class T>
void pack_panels(const PackWeightArgs& a, int64_t begin, int64_t end) {
    const int64_t row = a.channels * a.taps;
    for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t present = std::min(kPanel, a.channels_out - panel * kPanel);
        const T* from = static_cast<const T*>(a.weight) + panel * kPanel * row;
        T* to = static_cast<T*>(a.packed) + panel * kPanel * row;
        // In the checkpoint the rows lie a multiple of a large power of two apart, which crowds
        // them into few sets of the cache; copied next to each other they do not.
        T rows[kPanel][kBlock] = {};
        for (int64_t first = 0; first < row; first += kBlock) {
            const int64_t width = std::min(kBlock, row - first);
            for (int64_t r = 0; r < present; ++r)
                std::memcpy(rows[r], from + r * row + first, width * sizeof(T));
            for (int64_t i = 0; i < width; ++i) {
                const int64_t channel = (first + i) / a.taps, tap = (first + i) % a.taps;
                T* line = to + (tap * a.channels + channel) * kPanel;
                for (int64_t r = 0; r < kPanel; ++r) line[r] = rows[r][i];
            }
        }
    }
}

}  // namespace

void pack_weight(const PackWeightArgs& a, int item_size, int threads) {
    const char* op = "pack_weight";
    require(a.channels_out > 0 && a.channels > 0 && a.taps > 0, op, "empty weight");
    checked_count(op, a.channels_out);  // so that a panel more does not overflow
    checked_count(op, a.channels_out + kPanel, a.channels, a.taps);
    require(a.weight && a.packed, op, "null pointer");
    require(item_size == 1 || item_size == 2 || item_size == 4, op, "items of no known size");
    const int64_t panels = (a.channels_out + kPanel - 1) / kPanel;
    const auto pack = item_size == 1   ? pack_panels<uint8_t>
                      : item_size == 2 ? pack_panels<uint16_t>
                                       : pack_panels<uint32_t>;
    parallel_for(panels, 1, threads, [&](int64_t begin, int64_t end) { pack(a, begin, end); });
}

}  // namespace pyengine
