#include "sampler/sampler_step.h"

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

void sampler_step(const SamplerStepArgs& args, DType dtype, int threads) {
    if (checked_count("sampler_step", args.pictures, args.size, 2) == 0) return;
    checked_count("sampler_step", args.pictures, kSamplerColumns);
    require(args.x && args.out && args.coefficients && args.x_new && args.d && args.y,
            "sampler_step", "null pointer");
    const int64_t blocks = (args.size + kSamplerBlock - 1) / kSamplerBlock;
    const auto run = table().sampler_step[dtype];
    parallel_for(args.pictures * blocks, 4, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace pyengine
