#include "token/sample_token.h"

#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

// Items are the tokens of one row; begin is 0 and end their number.
template <class T>
void token_weights(const TokenWeightsArgs& args, int64_t begin, int64_t end) {
    const T* logits = static_cast<const T*>(args.logits);
    const T* unconditional = static_cast<const T*>(args.unconditional);
    const Floats infinity = splat(__builtin_inff());
    Floats top = -infinity;
    Ints fault{};
    for_vectors(end - begin, [&](int64_t i, auto lanes) {
        Floats v = load(logits + i, lanes);
        Ints bad = (v != v) | (v == infinity);
        if (unconditional) {
            const Floats u = load(unconditional + i, lanes);
            bad |= (u != u) | (u == infinity);
            const Ints masked = (v == -infinity) | (u == -infinity);
            v = fma(splat(args.guidance), v - u, u);
            v = select(masked, -infinity, v);
            bad |= (v != v) | (v == infinity);
        }
        store(args.guided + i, v, lanes);
        // Lanes beyond the end hold zeros, which must not pass for the largest logit.
        fault |= bad;
    });
    float most = -__builtin_inff();
    for_vectors(end - begin, [&](int64_t i, auto lanes) {
        if constexpr (__is_same(decltype(lanes), Whole)) {
            top = at_least(load(args.guided + i), top);
        } else {
            for (int64_t rest = i; rest < end; ++rest)
                most = args.guided[rest] > most ? args.guided[rest] : most;
        }
    });
    bool any = false;
    for (int lane = 0; lane < kLanes; ++lane) {
        any |= fault[lane] != 0;
        most = top[lane] > most ? top[lane] : most;
    }
    *args.top = any ? __builtin_nanf("") : most;
    if (any || most == -__builtin_inff() || args.temperature == 0) return;
    for_vectors(end - begin, [&](int64_t i, auto lanes) {
        const Floats v = load(args.guided + i, lanes);
        const Floats weight = exp((v - splat(most)) / splat(args.temperature), Floats{});
        store(args.weights + i, select(v == -infinity, Floats{}, weight), lanes);
    });
}

PYENGINE_INSTANTIATE(token_weights, PYENGINE_RANGE(TokenWeightsArgs));

}  // namespace pyengine::PYENGINE_NS
