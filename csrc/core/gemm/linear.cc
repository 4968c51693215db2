#include "gemm/linear.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "gemm/linear_int8.h"
#include "gemm/pairs.h"
#include "panel.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "linear";

// How many threads share the rows, and how many the units of outputs: two panels, or of gated ones
// a panel of values and one of gates. Six threads as a grid of 2 x 3:
//
//                  W:     unit 0 1 2 | 3 4 5 | 6 7 8      each share reads its columns of W
//                        +-----------+-------+-------+    and its rows of x; twice as many rows
//      x:  rows 0 .. 7   |  share 0  |   1   |   2   |    of shares read W twice as often, twice
//          rows 8 .. 15  |  share 3  |   4   |   5   |    as many columns x
//                        +-----------+-------+-------+
struct Grid {
    int64_t rows, units;
};

// What a thread has to do for some rows and columns, counted in multiply-adds: those of its tiles,
// where one of few rows takes as long as one of four; and for each element of A that it lays out
// and each weight that it reads, what could have been computed meanwhile (8 and 16: half a cycle,
// and 4 bytes from memory at 4 bytes a cycle).
double cost(int64_t depth, int64_t rows, int64_t columns) {
    const int64_t tile = table().tile_rows, tiles = ceil_divide(rows, tile);
    const int64_t height = std::max(ceil_divide(rows, tiles), std::min<int64_t>(tile, 4));
    const double multiplied = static_cast<double>(tiles * height) * static_cast<double>(columns);
    return static_cast<double>(depth + 1) *
           (multiplied + 8.0 * static_cast<double>(rows) + 16.0 * static_cast<double>(columns));
}

// Less than this, some 4 us, is not worth waking threads for.
constexpr double kSmall = 200e3;

// The grid whose slowest thread has least to do.
Grid grid_for(const LinearArgs& args, int64_t units, int threads) {
    const int64_t depth = args.channels + args.channels2, width = 2 * kPanel;
    Grid best{.rows = 1, .units = 1};
    double least = cost(depth, args.rows, units * width);
    if (least < kSmall) return best;
    for (int64_t r = 1; r <= std::min<int64_t>(threads, args.rows); ++r) {
        const int64_t u = std::min<int64_t>(threads / r, units);
        const double slowest =
            cost(depth, ceil_divide(args.rows, r), ceil_divide(units, u) * width);
        if (slowest < least) {
            best = {.rows = r, .units = u};
            least = slowest;
        }
    }
    return best;
}

}  // namespace

bool check_linear(const LinearArgs& args, const char* op) {
    for (int64_t size : {args.rows, args.channels, args.channels2, args.outputs, args.picture_rows})
        checked_count(op, size, 4);
    const bool gated = is_gated(args.activation);
    const int64_t depth = args.channels + args.channels2;
    checked_count(op, args.rows, depth);
    checked_count(op, args.outputs + kPanel, depth, gated ? 2 : 1);
    checked_count(op, args.outputs, gated ? 2 : 1);
    if (checked_count(op, args.rows, args.outputs, gated ? 2 : 1) == 0) return false;
    require(args.channels == 0 || args.x, op, "null pointer x");
    require(args.channels2 == 0 || args.x2, op, "null pointer x2");
    require(depth == 0 || args.weight, op, "null pointer weight");
    require(args.y, op, "null pointer y");
    require(!args.weight_scale == (args.weight_dtype != DType::int8), op,
            "scales go with int8 weights, and only with them");
    const bool multiplies_pairs = table().attention_bf16_sizes && args.dtype == DType::bfloat16 &&
                                  depth > 0 && depth % kPairsDepth == 0;
    require(args.weight_dtype != kBFloat16Pairs || multiplies_pairs, op,
            "weights in pairs are for bfloat16, channels in multiples of 32, and an instruction "
            "set that multiplies them");
    require(!args.scale == !args.shift, op, "scale and shift come together");
    require(args.picture_rows > 0, op, "a picture without rows");
    return true;
}

void linear(const LinearArgs& args, int threads) {
    if (!check_linear(args, kOp)) return;
    const bool gated = is_gated(args.activation);
    const int64_t panels = ceil_divide(args.outputs, kPanel);
    const int64_t units = gated ? panels : ceil_divide(panels, 2);
    const Grid grid = grid_for(args, units, std::clamp(threads, 1, 1024));
    const auto share = [&](int64_t i) {
        const int64_t row = i / grid.units, unit = i % grid.units;
        return LinearShare{.row_begin = args.rows * row / grid.rows,
                           .row_end = args.rows * (row + 1) / grid.rows,
                           .unit_begin = units * unit / grid.units,
                           .unit_end = units * (unit + 1) / grid.units};
    };
    const int64_t shares = grid.rows * grid.units;
    int64_t room = 0;
    for (int64_t i = 0; i < shares; ++i)
        room = std::max(room, table().linear_scratch(args, share(i)));
    room = round_up(room, 1024);
    float* memory = scratch(room * shares);
    const auto run = table().linear;
    parallel_for(shares, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) run(args, share(i), memory + i * room);
    });
}

}  // namespace pyengine
