#include "norm/layer_norm.h"

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

namespace {

void run_rows(const char* op, const LayerNormArgs& args, RangeFunction<LayerNormArgs> run,
              int threads) {
    const int64_t count = checked_count(op, args.rows, args.width);
    require(args.eps >= 0, op, "eps must not be negative");
    if (count == 0) return;
    require(args.x && args.y, op, "null pointer");
    parallel_for(args.rows, 1 + 16384 / args.width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace

void layer_norm(const LayerNormArgs& args, DType dtype, int threads) {
    run_rows("layer_norm", args, table().layer_norm[dtype], threads);
}

void rms_norm(const LayerNormArgs& args, DType dtype, int threads) {
    require(!args.bias, "rms_norm", "a bias");
    run_rows("rms_norm", args, table().rms_norm[dtype], threads);
}

}  // namespace pyengine
