#include "token/sample_token.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "sample_token";

// Logits fall into buckets, 64 to a unit below the largest and all beyond 32 into the last: only
// the bucket in which a limit lies has to be sorted.
constexpr int64_t kBuckets = 2048;
constexpr float kPerUnit = 64;

int64_t bucket_of(float logit, float top) {
    const float below = (top - logit) * kPerUnit;  // falls as the logit rises, also as rounded
    return below < kBuckets - 1 ? static_cast<int64_t>(below) : kBuckets - 1;
}

// What is kept of a row: all above `logit`, and of those equal to it the ones up to `token`.
struct Limit {
    float logit = -HUGE_VALF;
    int64_t token = INT64_MAX;
    bool keeps(float value, int64_t i) const {
        return value > logit || (value == logit && i <= token);
    }
};

struct Row {
    const float *guided, *weights;
    int64_t size;
    float top;
};

// Of a share.
struct Memory {
    float *guided, *weights;   // [size]
    int64_t *counts, *inside;  // [kBuckets], [size]
    double* masses;            // [kBuckets]
    int64_t found = 0;         // of `inside`

    static int64_t floats(int64_t size) { return round_up(4 * size + 4 * kBuckets, 16); }
    Memory(float* from, int64_t size)
        : guided(from + 2 * size + 4 * kBuckets),
          weights(guided + size),
          counts(reinterpret_cast<int64_t*>(from)),
          inside(counts + kBuckets),
          masses(reinterpret_cast<double*>(inside + size)) {}
};

// The kept tokens of one bucket, in falling order; the lowest index first among equals.
void sort_bucket(const Row& row, const Limit& limit, int64_t bucket, Memory& memory) {
    memory.found = 0;
    for (int64_t i = 0; i < row.size; ++i)
        if (bucket_of(row.guided[i], row.top) == bucket && limit.keeps(row.guided[i], i))
            memory.inside[memory.found++] = i;
    std::sort(memory.inside, memory.inside + memory.found, [&](int64_t a, int64_t b) {
        return row.guided[a] > row.guided[b] || (row.guided[a] == row.guided[b] && a < b);
    });
}

// The k largest, and those equal to the last of them.
Limit top_k(const Row& row, int64_t k, Memory& memory) {
    std::fill_n(memory.counts, kBuckets, 0);
    for (int64_t i = 0; i < row.size; ++i) ++memory.counts[bucket_of(row.guided[i], row.top)];
    int64_t before = 0, bucket = 0;
    while (before + memory.counts[bucket] < k) before += memory.counts[bucket++];
    sort_bucket(row, {}, bucket, memory);
    return {.logit = row.guided[memory.inside[k - before - 1]]};
}

// The largest, until what is kept has `share` of the weight of what `limit` keeps.
Limit top_p(const Row& row, const Limit& limit, double share, Memory& memory) {
    std::fill_n(memory.masses, kBuckets, 0.0);
    for (int64_t i = 0; i < row.size; ++i)
        if (limit.keeps(row.guided[i], i))
            memory.masses[bucket_of(row.guided[i], row.top)] += static_cast<double>(row.weights[i]);
    double total = 0, ahead = 0;
    for (int64_t i = 0; i < kBuckets; ++i) total += memory.masses[i];
    const double wanted = share * total;
    int64_t bucket = 0;
    while (bucket + 1 < kBuckets && ahead + memory.masses[bucket] < wanted)
        ahead += memory.masses[bucket++];
    sort_bucket(row, limit, bucket, memory);
    Limit result = limit;
    bool first = bucket == 0;  // the largest is always kept
    for (int64_t at = 0; at < memory.found; ++at) {
        if (!first && ahead >= wanted) break;
        first = false;
        const int64_t token = memory.inside[at];
        result = {.logit = row.guided[token], .token = token};
        ahead += static_cast<double>(row.weights[token]);
    }
    return result;
}

bool usable(const SamplingSettings& s) {
    return std::isfinite(s.guidance) && s.temperature >= 0 && std::isfinite(s.temperature) &&
           s.top_k >= 0 && s.top_k < 0x1p31f && s.top_p >= 0 && s.top_p <= 1 && s.min_p >= 0 &&
           s.min_p <= 1;
}

int64_t sample_row(const SampleTokenArgs& args, int64_t i, DType dtype, Memory& memory) {
    SamplingSettings s;
    std::copy_n(args.settings + i * kSamplingColumns, kSamplingColumns, &s.guidance);
    if (!usable(s)) return kBadSettings;
    const double uniform = args.uniform[i];
    if (!(uniform >= 0 && uniform < 1)) return kBadUniform;
    const int64_t offset = i * args.size * size_of(dtype);
    const auto row_of = [&](const void* tensor) {
        return tensor ? static_cast<const char*>(tensor) + offset : nullptr;
    };
    float top;
    const TokenWeightsArgs weigh{.logits = row_of(args.logits),
                                 .unconditional = row_of(args.unconditional),
                                 .guidance = s.guidance,
                                 .temperature = s.temperature,
                                 .guided = memory.guided,
                                 .weights = memory.weights,
                                 .top = &top};
    table().token_weights[dtype](weigh, 0, args.size);
    if (std::isnan(top)) return kNoNumber;
    if (top == -HUGE_VALF) return kAllMasked;
    const Row row{
        .guided = memory.guided, .weights = memory.weights, .size = args.size, .top = top};
    if (s.temperature == 0) return std::find(row.guided, row.guided + row.size, top) - row.guided;
    Limit limit;
    const int64_t k = static_cast<int64_t>(s.top_k);
    if (k > 0 && k < args.size) limit = top_k(row, k, memory);
    if (s.top_p < 1) limit = top_p(row, limit, static_cast<double>(s.top_p), memory);
    return draw_token(row.weights, row.size, uniform, [&](int64_t token) {
        return limit.keeps(row.guided[token], token) && row.weights[token] >= s.min_p;
    });
}

}  // namespace

void sample_token(const SampleTokenArgs& args, DType dtype, int threads) {
    checked_count(kOp, args.rows, args.size, 2);
    require(args.size > 0 && args.size < INT32_MAX, kOp, "no tokens, or too many");
    if (args.rows == 0) return;
    require(args.logits && args.uniform && args.settings && args.tokens, kOp, "null pointer");
    const int64_t shares = shares_of(args.rows, 1 + 8192 / args.size, threads);
    const int64_t room = Memory::floats(args.size);
    float* floats = scratch(checked_count(kOp, shares, room));
    parallel_shares(args.rows, shares, threads, [&](int64_t share, int64_t begin, int64_t end) {
        Memory memory(floats + share * room, args.size);
        for (int64_t i = begin; i < end; ++i) args.tokens[i] = sample_row(args, i, dtype, memory);
    });
}

}  // namespace pyengine
