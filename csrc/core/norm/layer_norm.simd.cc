#include "norm/layer_norm.h"

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Elements that are summed in float32 before their sum joins a double: keeps a long row's error
// that of a short one.
constexpr int64_t kBlock = 2048;

// The sum of x in double, in an order that depends on width alone.
template <class T>
double total(const T* x, int64_t width) {
    double all = 0;
    for (int64_t start = 0; start < width; start += kBlock) {
        const T* block = x + start;
        const int64_t n = width - start < kBlock ? width - start : kBlock;
        Floats sums[kChains] = {};
        for_vectors_in_chains(
            n, [&](int64_t c, auto lanes, int chain) { sums[chain] += load(block + c, lanes); });
        all += sum(sums);
    }
    return all;
}

struct Moments {
    double first, second;  // sums of (x - centre) and of its square
};

template <class T>
Moments moments_about(float centre, const T* x, int64_t width) {
    Moments all{0, 0};
    const Floats middle = splat(centre);
    for (int64_t start = 0; start < width; start += kBlock) {
        const T* block = x + start;
        const int64_t n = width - start < kBlock ? width - start : kBlock;
        Floats first[kChains] = {}, second[kChains] = {};
        for_vectors_in_chains(n, [&](int64_t c, auto lanes, int chain) {
            const Floats d = first_lanes(load(block + c, lanes) - middle, lanes);
            first[chain] += d;
            second[chain] = fma(d, d, second[chain]);
        });
        all.first += sum(first);
        all.second += sum(second);
    }
    return all;
}

}  // namespace

// Items are rows. Two passes for the statistics, the second about the first one's mean and with a
// correction for its rounding (Chan, Golub & LeVeque 1983), and one to apply them; a row stays in
// the cache between them.
template <class T>
void layer_norm(const LayerNormArgs& args, int64_t begin, int64_t end) {
    const int64_t width = args.width;
    const double count = static_cast<double>(width);
    for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(args.x) + row * width;
        T* y = static_cast<T*>(args.y) + row * width;
        const float centre = static_cast<float>(total(x, width) / count);
        const Moments m = moments_about(centre, x, width);
        const double offset = m.first / count;
        double variance = (m.second - m.first * offset) / count;
        variance = variance < 0 ? 0 : variance;
        const Floats middle = splat(centre), rest = splat(static_cast<float>(offset));
        const Floats rstd = splat(static_cast<float>(1 / __builtin_sqrt(variance + args.eps)));
        for_vectors(width, [&](int64_t c, auto lanes) {
            Floats v = ((load(x + c, lanes) - middle) - rest) * rstd;
            if (args.weight && args.bias) {
                v = fma(v, load(args.weight + c, lanes), load(args.bias + c, lanes));
            } else if (args.weight) {
                v *= load(args.weight + c, lanes);
            } else if (args.bias) {
                v += load(args.bias + c, lanes);
            }
            store(y + c, v, lanes);
        });
    }
}

// Items are rows.
template <class T>
void rms_norm(const LayerNormArgs& args, int64_t begin, int64_t end) {
    const int64_t width = args.width;
    for (int64_t row = begin; row < end; ++row) {
        const T* x = static_cast<const T*>(args.x) + row * width;
        T* y = static_cast<T*>(args.y) + row * width;
        const double mean = moments_about(0.0f, x, width).second / static_cast<double>(width);
        const Floats scale = splat(static_cast<float>(1 / __builtin_sqrt(mean + args.eps)));
        for_vectors(width, [&](int64_t c, auto lanes) {
            Floats v = load(x + c, lanes) * scale;
            if (args.weight) v *= load(args.weight + c, lanes);
            store(y + c, v, lanes);
        });
    }
}

PYENGINE_INSTANTIATE(layer_norm, PYENGINE_RANGE(LayerNormArgs));
PYENGINE_INSTANTIATE(rms_norm, PYENGINE_RANGE(LayerNormArgs));

}  // namespace pyengine::PYENGINE_NS
