#include "activation/geglu.h"

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

void geglu(const GegluArgs& args, DType dtype, int threads) {
    const int64_t count = checked_count("geglu", args.rows, args.width, 2);
    if (count == 0) return;
    require(args.x && args.y, "geglu", "null pointer");
    const auto run = table().geglu[static_cast<int>(dtype)];
    parallel_for(args.rows, 1 + 8192 / args.width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace pyengine
