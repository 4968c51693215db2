#include "token/mask_refine.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"
#include "token/sample_token.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "mask_refine";
constexpr double kTiny = 1e-20;  // keeps the logarithms finite, as in aMUSEd

// The drawn token of a masked place, and how certain it is.
void predict(const MaskRefineArgs& args, int64_t place, DType dtype, float* guided,
             float* weights) {
    const int64_t picture = place / args.places, offset = place * args.size * size_of(dtype);
    const auto row_of = [&](const void* tensor) {
        return tensor ? static_cast<const char*>(tensor) + offset : nullptr;
    };
    float top;
    const float guidance = args.guidance ? args.guidance[picture] : 1.0f;
    const TokenWeightsArgs weigh{.logits = row_of(args.logits),
                                 .unconditional = row_of(args.unconditional),
                                 .guidance = guidance,
                                 .temperature = 1.0f,
                                 .guided = guided,
                                 .weights = weights,
                                 .top = &top};
    table().token_weights[dtype](weigh, 0, args.size);
    int64_t token;
    const double share = args.uniform ? args.uniform[place] : 0, gumbel = args.gumbel[place];
    if (std::isnan(top)) {
        token = kNoNumber;
    } else if (top == -HUGE_VALF) {
        token = kAllMasked;
    } else if (!(share >= 0 && share < 1 && gumbel >= 0 && gumbel < 1)) {
        token = kBadUniform;
    } else if (args.uniform) {
        token = draw_token(weights, args.size, share, [](int64_t) { return true; });
    } else {
        table().token_race(
            {.weights = weights, .race = args.race + place * args.size, .winner = &token}, 0,
            args.size);
        if (token < 0) token = kBadUniform;
    }
    args.predicted[place] = token;
    if (token < 0) return;
    double total = 0;
    for (int64_t i = 0; i < args.size; ++i) total += weights[i];
    const double noise = -std::log(std::max(-std::log(std::max(gumbel, kTiny)), kTiny));
    args.confidence[place] = std::log(std::max(weights[token] / total, kTiny)) +
                             static_cast<double>(args.temperature[picture]) * noise;
}

// Masks the least certain of a picture's places again. order: room for `places` numbers.
void choose(const MaskRefineArgs& args, int64_t picture, double* order) {
    const int64_t first = picture * args.places;
    int64_t unknown = 0;
    for (int64_t i = first; i < first + args.places; ++i)
        if (args.tokens[i] == args.mask_token) order[unknown++] = args.confidence[i];
    double cut = -HUGE_VAL;
    if (args.masked[picture] > 0 && unknown > 0) {
        const int64_t count =
            std::max<int64_t>(1, std::min<int64_t>(unknown - 1, args.masked[picture]));
        cut = HUGE_VAL;  // all of them, where that leaves none
        if (count < unknown) {
            std::nth_element(order, order + count, order + unknown);
            cut = order[count];
        }
    }
    for (int64_t i = first; i < first + args.places; ++i) {
        const bool again = args.tokens[i] == args.mask_token && args.confidence[i] < cut;
        args.next[i] = again ? args.mask_token : args.predicted[i];
    }
}

}  // namespace

void mask_refine(const MaskRefineArgs& args, DType dtype, int threads) {
    const int64_t places = checked_count(kOp, args.pictures, args.places);
    checked_count(kOp, places, args.size, 2);
    require(args.size > 0 && args.size < INT32_MAX, kOp, "no tokens, or too many");
    if (places == 0) return;
    require(args.logits && args.tokens && (args.uniform || args.race) && args.gumbel &&
                args.masked && args.temperature && args.next && args.predicted && args.confidence,
            kOp, "null pointer");
    require(!args.unconditional || args.guidance, kOp, "null pointer guidance");
    const int64_t shares = shares_of(places, 1 + 8192 / args.size, threads);
    const int64_t room = round_up(2 * args.size, 16);
    float* memory = scratch(std::max(checked_count(kOp, shares, room), 2 * args.places));
    parallel_shares(places, shares, threads, [&](int64_t share, int64_t begin, int64_t end) {
        float* guided = memory + share * room;
        for (int64_t i = begin; i < end; ++i) {
            if (args.tokens[i] != args.mask_token)
                args.predicted[i] = args.tokens[i];
            else
                predict(args, i, dtype, guided, guided + args.size);
        }
    });
    double* order = reinterpret_cast<double*>(memory);
    for (int64_t picture = 0; picture < args.pictures; ++picture) choose(args, picture, order);
}

}  // namespace pyengine
