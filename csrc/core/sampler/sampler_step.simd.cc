#include "sampler/sampler_step.h"

#include "isa/math.simd.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

template <class T>
PYENGINE_INLINE const T* at(const void* tensor, int64_t offset) {
    return tensor ? static_cast<const T*>(tensor) + offset : nullptr;
}

}  // namespace

// Items are blocks of kSamplerBlock elements: picture after picture, the last of each shorter.
template <class T>
void sampler_step(const SamplerStepArgs& args, int64_t begin, int64_t end) {
    const int64_t blocks = (args.size + kSamplerBlock - 1) / kSamplerBlock;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t picture = i / blocks, start = i % blocks * kSamplerBlock;
        const int64_t left = args.size - start, n = left < kSamplerBlock ? left : kSamplerBlock;
        const int64_t offset = picture * args.size + start;
        SamplerCoefficients k;
        __builtin_memcpy(&k, args.coefficients + picture * kSamplerColumns, sizeof k);
        const T *x = at<T>(args.x, offset), *out = at<T>(args.out, offset);
        const T* unconditional = at<T>(args.unconditional, offset);
        const T *d1 = at<T>(args.d1, offset), *d2 = at<T>(args.d2, offset);
        const T *d3 = at<T>(args.d3, offset), *base = at<T>(args.base, offset);
        const T *noise = at<T>(args.noise, offset), *variance = at<T>(args.variance, offset);
        T* x_new = static_cast<T*>(args.x_new) + offset;
        T* d_new = static_cast<T*>(args.d) + offset;
        T* y_new = static_cast<T*>(args.y) + offset;
        for_vectors(n, [&](int64_t c, auto lanes) {
            const Floats sample = load(x + c, lanes);
            Floats m = load(out + c, lanes);
            if (unconditional) {
                const Floats u = load(unconditional + c, lanes);
                m = fma(splat(k.g), m - u, u);
            }
            Floats d = fma(splat(k.q), m, splat(k.p) * sample);
            d = at_most(at_least(d, splat(-k.limit)), splat(k.limit)) * splat(k.dscale);
            Floats next = splat(k.x_x) * sample;
            next = fma(splat(k.x_m), m, next);
            next = fma(splat(k.x_d), d, next);
            Floats kept = fma(splat(k.y_d), d, splat(k.y_x) * sample);
            const auto add = [&](const T* tensor, float to_next, float to_kept) {
                if (!tensor) return;
                const Floats v = load(tensor + c, lanes);
                next = fma(splat(to_next), v, next);
                kept = fma(splat(to_kept), v, kept);
            };
            add(d1, k.x_d1, k.y_d1);
            add(d2, k.x_d2, k.y_d2);
            add(d3, k.x_d3, k.y_d3);
            add(base, k.x_base, k.y_base);
            if (noise) {
                Floats drawn = load(noise + c, lanes);
                if (variance) {
                    const Floats v = load(variance + c, lanes);
                    drawn *= exp(fma(splat(k.v_v), v, splat(k.v_1)), Floats{});
                }
                next = fma(splat(k.x_noise), drawn, next);
            }
            store(x_new + c, next, lanes);
            store(d_new + c, d, lanes);
            store(y_new + c, kept, lanes);
        });
    }
}

PYENGINE_INSTANTIATE(sampler_step, PYENGINE_RANGE(SamplerStepArgs));

}  // namespace pyengine::PYENGINE_NS
