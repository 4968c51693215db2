#include "vq/vq_argmin.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "vq_argmin";

// Rows so few that reading the codebook in double takes less than packing it.
constexpr int64_t kFewRows = 5;

// Something near the mean of the entries: without it, an offset that all share would leave no
// digits to tell them apart. Any centre gives the same result; of at most 256 entries, this one is
// cheap.
void find_centre(const float* codebook, int64_t entries, int64_t width, bool cosine,
                 float* centre) {
    const int64_t step = (entries + 255) / 256;
    std::vector<double> sums(static_cast<size_t>(width));
    int64_t count = 0;
    for (int64_t e = 0; e < entries; e += step) {
        const float* entry = codebook + e * width;
        double square = 0;
        for (int64_t k = 0; k < width; ++k) square += static_cast<double>(entry[k]) * entry[k];
        if (!std::isfinite(square)) continue;
        const double scale = !cosine ? 1 : square > 0 ? 1 / std::sqrt(square) : 0;
        for (int64_t k = 0; k < width; ++k) sums[static_cast<size_t>(k)] += scale * entry[k];
        ++count;
    }
    for (int64_t k = 0; k < width; ++k)
        centre[k] = count ? static_cast<float>(sums[static_cast<size_t>(k)] / count) : 0.0f;
}

// Floats of a share: the tiles, then the row and its norms in double.
struct Room {
    int64_t tiles, all;
};

Room room_of(const VqSearch& search) {
    const int64_t panel = kVqVectors * table().lanes, width = search.width;
    const bool packs = search.panels > 0;
    const int64_t groups = packs ? ceil_divide(search.panels, search.group_panels) : 0;
    const int64_t tiles = packs ? kVqBlock * (width + groups * panel) : 0;
    return {tiles, round_up(tiles + 2 * (width + table().lanes + kVqBlock), 16)};
}

void run_level(const VqSearch& search, float* memory, const Room& room, int64_t shares, DType dtype,
               int threads) {
    const auto run = table().vq_argmin[dtype];
    parallel_shares(search.rows, shares, threads, [&](int64_t share, int64_t begin, int64_t end) {
        VqSearch mine = search;
        mine.tiles = memory + share * room.all;
        mine.row = reinterpret_cast<double*>(mine.tiles + room.tiles);
        run(mine, begin, end);
    });
}

void check(const VqArgminArgs& args) {
    checked_count(kOp, args.rows, args.stride);
    checked_count(kOp, args.levels, args.entries, args.width, 2);
    checked_count(kOp, args.rows, args.levels);
    require(args.entries > 0 && args.width > 0, kOp, "an empty codebook has no nearest entry");
    require(args.stride == (args.residual ? 1 : args.levels) * args.width, kOp,
            "rows do not have the codebook's width");
    require(!(args.residual && args.cosine), kOp, "residual levels are for L2 distances");
}

}  // namespace

void vq_argmin(const VqArgminArgs& args, DType dtype, int threads) {
    check(args);
    if (args.rows == 0 || args.levels == 0) return;
    require(args.x && args.codebook && args.indices, kOp, "null pointer");

    VqSearch search{};
    static_cast<VqArgminArgs&>(search) = args;
    const int64_t panel = kVqVectors * table().lanes, width = args.width;
    const bool packs = args.rows > kFewRows;
    int64_t packed_floats = 0, centre_floats = 0;
    if (packs) {
        search.panels = ceil_divide(args.entries, panel);
        search.group_panels = std::max(ceil_divide(search.panels, kVqGroups), kVqGroupPanels);
        packed_floats = round_up(checked_count(kOp, search.panels, panel, width + 1), 16);
        centre_floats = round_up(width, 16);
    }
    // A codebook of 16384 x 8 takes 144 pages and a thread's minima 100, which else would be fresh,
    // and fault, at every call of a millisecond.
    const int64_t shares = shares_of(args.rows, 1 + 100000 / (args.entries * width), threads);
    const Room room = room_of(search);
    float* packed = scratch(packed_floats + centre_floats + checked_count(kOp, shares, room.all));
    float* centre = packed + packed_floats;
    float* memory = centre + centre_floats;
    for (search.level = 0; search.level < args.levels; ++search.level) {
        search.offset = args.residual ? 0 : search.level * width;
        if (packs) {
            const float* codebook = args.codebook + search.level * args.entries * width;
            find_centre(codebook, args.entries, width, args.cosine, centre);
            const VqPackArgs pack{.codebook = codebook,
                                  .centre = centre,
                                  .entries = args.entries,
                                  .width = width,
                                  .cosine = args.cosine,
                                  .packed = packed};
            parallel_for(search.panels, 1 + 8192 / (panel * width), threads,
                         [&](int64_t begin, int64_t end) { table().vq_pack(pack, begin, end); });
            search.packed = packed;
            search.centre = centre;
        }
        run_level(search, memory, room, shares, dtype, threads);
    }
}

}  // namespace pyengine
