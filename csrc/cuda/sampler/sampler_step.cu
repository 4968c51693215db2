// Guidance and one update of a linear sampler, in one pass over its tensors.
// Ho & Salimans 2022, arXiv:2207.12598; the formula is in pyengine/ops/reference/sampler_step.py.
#include "check.h"
#include "launchers.h"
#include "runtime.h"
#include "vector.cuh"

namespace pyengine::cuda {

namespace {

// next and kept with an optional tensor's share; what is null is not read.
template <int N, class T>
__device__ void add(const void* tensor, int64_t offset, float to_next, float to_kept,
                    float (&next)[N], float (&kept)[N]) {
    if (tensor == nullptr) return;
    float v[N];
    load(static_cast<const T*>(tensor) + offset, v);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        next[i] = fmaf(to_next, v[i], next[i]);
        kept[i] = fmaf(to_kept, v[i], kept[i]);
    }
}

// A block computes kThreads * N elements of one picture; size is a multiple of N. Products and
// sums are rounded in the same order as on the CPU, so that float32 results have the same bits
// (but for the exponential of a variance).
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    sampler_step_kernel(const SamplerStepArgs args, uint32_t blocks) {
    const uint32_t picture = blockIdx.x / blocks, block = blockIdx.x - picture * blocks;
    const int64_t element = (int64_t{block} * kThreads + threadIdx.x) * N;
    if (element >= args.size) return;
    const int64_t offset = picture * args.size + element;
    const SamplerCoefficients k =
        reinterpret_cast<const SamplerCoefficients*>(args.coefficients)[picture];

    float x[N], m[N], d[N], next[N], kept[N];
    load(static_cast<const T*>(args.x) + offset, x);
    load(static_cast<const T*>(args.out) + offset, m);
    if (args.unconditional != nullptr) {
        float u[N];
        load(static_cast<const T*>(args.unconditional) + offset, u);
#pragma unroll
        for (int i = 0; i < N; ++i) m[i] = fmaf(k.g, m[i] - u[i], u[i]);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float v = fmaf(k.q, m[i], k.p * x[i]);
        // Not fminf and fmaxf: they would turn NaN into the limit, and a broken model would look
        // clipped.
        v = v < -k.limit ? -k.limit : v;
        v = v > k.limit ? k.limit : v;
        d[i] = v * k.dscale;
        next[i] = fmaf(k.x_d, d[i], fmaf(k.x_m, m[i], k.x_x * x[i]));
        kept[i] = fmaf(k.y_d, d[i], k.y_x * x[i]);
    }
    add<N, T>(args.d1, offset, k.x_d1, k.y_d1, next, kept);
    add<N, T>(args.d2, offset, k.x_d2, k.y_d2, next, kept);
    add<N, T>(args.d3, offset, k.x_d3, k.y_d3, next, kept);
    add<N, T>(args.base, offset, k.x_base, k.y_base, next, kept);
    if (args.noise != nullptr) {
        float v[N];
        load(static_cast<const T*>(args.noise) + offset, v);
        if (args.variance != nullptr) {
            float variance[N];
            load(static_cast<const T*>(args.variance) + offset, variance);
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] *= expf(fmaf(k.v_v, variance[i], k.v_1));
        }
#pragma unroll
        for (int i = 0; i < N; ++i) next[i] = fmaf(k.x_noise, v[i], next[i]);
    }
    store(static_cast<T*>(args.x_new) + offset, next);
    store(static_cast<T*>(args.d) + offset, d);
    store(static_cast<T*>(args.y) + offset, kept);
}

template <class T, int N>
void launch(const SamplerStepArgs& args, cudaStream_t stream) {
    const int64_t per_block = kThreads * N;
    const int64_t blocks = (args.size + per_block - 1) / per_block;
    // The limit of a grid's first dimension.
    require(checked_count("sampler_step", args.pictures, blocks) < int64_t{1} << 31, "sampler_step",
            "too many elements for one launch");
    sampler_step_kernel<T, N>
        <<<args.pictures * blocks, kThreads, 0, stream>>>(args, static_cast<uint32_t>(blocks));
    check_launch("sampler_step");
}

}  // namespace

void sampler_step(const SamplerStepArgs& args, DType dtype, cudaStream_t stream) {
    if (checked_count("sampler_step", args.pictures, args.size, 2) == 0) return;
    require(args.x && args.out && args.coefficients && args.x_new && args.d && args.y,
            "sampler_step", "null pointer");
    const bool aligned =
        aligned_16(args.x, args.out, args.unconditional, args.d1, args.d2, args.d3, args.base,
                   args.noise, args.variance, args.x_new, args.d, args.y);
    with_element_type(dtype, [&]<class T>(T*) {
        if (args.size % kWide<T> == 0 && aligned)
            launch<T, kWide<T>>(args, stream);
        else
            launch<T, 1>(args, stream);
    });
}

}  // namespace pyengine::cuda
