#include "vq/vq_decode.h"

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

int64_t vq_decode(const VqDecodeArgs& args, DType dtype, int threads) {
    constexpr const char* kOp = "vq_decode";
    const int64_t count = checked_count(kOp, args.rows, args.levels);
    checked_count(kOp, args.levels, args.entries, args.width);
    const int64_t inputs = (args.residual ? 1 : args.levels) * args.width;
    checked_count(kOp, inputs, args.outputs);
    checked_count(kOp, args.rows, args.outputs);
    require(args.weight || args.outputs == inputs, kOp, "outputs without a weight are inputs");
    if (count == 0) return -1;
    require(args.indices, kOp, "null pointer indices");
    for (int64_t i = 0; i < count; ++i)
        if (args.indices[i] < 0 || args.indices[i] >= args.entries) return i;
    if (args.outputs == 0) return -1;
    require(args.codebook && args.y, kOp, "null pointer");

    const auto run = table().vq_decode[dtype];
    const int64_t work = 1 + (args.weight ? inputs * args.outputs : inputs);
    const int64_t shares = shares_of(args.rows, 1 + 32768 / work, threads);
    const int64_t room = round_up(inputs, 16);
    float* memory = scratch(checked_count(kOp, shares, room));
    parallel_shares(args.rows, shares, threads, [&](int64_t share, int64_t begin, int64_t end) {
        run({args, memory + share * room}, begin, end);
    });
    return -1;
}

}  // namespace pyengine
