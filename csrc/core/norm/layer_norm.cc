#include "norm/layer_norm.h"

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

void layer_norm(const LayerNormArgs& args, DType dtype, int threads) {
    const int64_t count = checked_count("layer_norm", args.rows, args.width);
    require(args.eps >= 0, "layer_norm", "eps must not be negative");
    if (count == 0) return;
    require(args.x && args.y, "layer_norm", "null pointer");
    const auto run = table().layer_norm[static_cast<int>(dtype)];
    parallel_for(args.rows, 1 + 16384 / args.width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace pyengine
