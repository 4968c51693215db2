#include "vq/vq_decode.h"

#include <atomic>
#include <memory>
#include <new>

#include "check.h"
#include "parallel.h"
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
    std::atomic<bool> failed{false};
    parallel_for(args.rows, 1 + 32768 / work, threads, [&](int64_t begin, int64_t end) {
        const std::unique_ptr<float[]> gathered(
            new (std::nothrow) float[static_cast<size_t>(inputs + 1)]);
        VqDecodeArgs mine = args;
        mine.gathered = gathered.get();
        gathered ? run(mine, begin, end) : failed.store(true);
    });
    if (failed) throw std::bad_alloc();
    return -1;
}

}  // namespace pyengine
