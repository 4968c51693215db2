#include "activation/geglu.h"

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

namespace {

void run_rows(const char* op, const GegluArgs& args, RangeFunction<GegluArgs> run, int threads) {
    const int64_t count = checked_count(op, args.rows, args.width, 2);
    if (count == 0) return;
    require(args.x && args.y, op, "null pointer");
    parallel_for(args.rows, 1 + 8192 / args.width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace

void geglu(const GegluArgs& args, DType dtype, int threads) {
    run_rows("geglu", args, table().geglu[dtype], threads);
}

void swiglu(const GegluArgs& args, DType dtype, int threads) {
    run_rows("swiglu", args, table().swiglu[dtype], threads);
}

}  // namespace pyengine
