#include "gemm/linear_int8.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "panel.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "linear_int8";
constexpr int64_t kMostChannels = int64_t{1} << 17;
// Of A, in bytes, that is rounded before it is multiplied: half of a second-level cache or more
// would go to memory and come back.
constexpr int64_t kRounded = int64_t{1} << 21;

void share(LinearInt8Work& work, int threads) {
    const int64_t tiles = ceil_divide(work.end - work.row, kInt8TileRows);
    // Few operations are not worth waking threads for: some 4 us.
    const int64_t all = (work.end - work.row) * work.units * work.steps;
    const int64_t most = all < 64 ? 1 : threads;
    // Each share reads its rows and its weights: the larger of the two is divided.
    const bool by_units = tiles * kInt8TileRows <= work.units * kInt8Columns;
    const int64_t first = std::min(most, by_units ? work.units : tiles);
    const int64_t second = std::min(most / first, by_units ? tiles : work.units);
    work.row_shares = by_units ? second : first;
    work.unit_shares = by_units ? first : second;
    work.lines = std::min<int64_t>(most, tiles);
    work.row_tiles_of_line = ceil_divide(tiles, work.lines);
    work.lines = ceil_divide(tiles, work.row_tiles_of_line);
}

}  // namespace

void linear_int8(const LinearArgs& args, int threads) {
    if (!check_linear(args, kOp)) return;
    const int64_t depth = args.channels + args.channels2;
    require(args.weight_dtype == DType::int8, kOp, "weights of another dtype");
    require(depth <= kMostChannels, kOp, "too many channels for sums of 32 bits");
    LinearInt8Work work{};
    work.args = args;
    work.steps = ceil_divide(depth, kInt8Step);
    work.product = &int8_product();
    const int64_t panels = ceil_divide(args.outputs, kPanel);
    work.units = is_gated(args.activation) ? panels : ceil_divide(panels, 2);
    const int64_t fits = kRounded / std::max<int64_t>(work.steps * kInt8Step, 1);
    const int64_t most = std::max(fits / kInt8TileRows * kInt8TileRows, kInt8BlockRows);
    const int64_t chunks = ceil_divide(args.rows, most);
    const int64_t chunk = round_up(ceil_divide(args.rows, chunks), kInt8TileRows);

    threads = std::clamp(threads, 1, 1024);
    work.line_stride = round_up(depth, 32);
    work.sum_stride = (kInt8BlockRows + 2 * kInt8TileRows) * kInt8Columns;
    const int64_t a_floats = round_up(chunk * work.steps * kInt8Step / 4, 32);
    const int64_t scale_floats = round_up(chunk, 32);
    float* memory = scratch(checked_count(
        kOp, a_floats + scale_floats + threads * (work.line_stride + work.sum_stride)));
    work.a = reinterpret_cast<int8_t*>(memory);
    work.row_scale = memory + a_floats;
    work.line = work.row_scale + scale_floats;
    work.sums = reinterpret_cast<int32_t*>(work.line + threads * work.line_stride);
    const auto round_rows = table().linear_int8_rows, run = table().linear_int8;
    for (int64_t row = 0; row < args.rows; row += chunk) {
        work.row = row;
        work.end = std::min(row + chunk, args.rows);
        share(work, threads);
        parallel_for(work.lines, 1, threads,
                     [&](int64_t begin, int64_t end) { round_rows(work, begin, end); });
        parallel_for(work.row_shares * work.unit_shares, 1, threads,
                     [&](int64_t begin, int64_t end) { run(work, begin, end); });
    }
}

}  // namespace pyengine
