#include "token/mask_refine.h"

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// The token with the largest weight / race, the lowest index among equals; -1 if no weight is above
// zero. With exponential numbers that is a draw by weight.
void token_race(const RaceArgs& args, int64_t begin, int64_t end) {
    Floats best{};
    Ints index = Ints{} - 1, lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    for_vectors(end - begin, [&](int64_t i, auto lanes) {
        const Floats time = load(args.weights + i, lanes) / load(args.race + i, lanes);
        const Ints faster = time > best;  // never of the zeros over zeros beyond the end
        best = select(faster, time, best);
        index = faster ? lane + static_cast<int32_t>(i) : index;
    });
    int winner = 0;
    for (int i = 1; i < kLanes; ++i)
        if (best[i] > best[winner] || (best[i] == best[winner] && index[i] < index[winner]))
            winner = i;
    *args.winner = index[winner];
}

}  // namespace pyengine::PYENGINE_NS
