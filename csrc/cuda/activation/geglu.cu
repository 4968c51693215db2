// GEGLU: each element read once, 16 bytes at a time. Shazeer 2020, arXiv:2002.05202.
#include <algorithm>

#include "check.h"
#include "launchers.h"
#include "runtime.h"
#include "vector.cuh"

namespace pyengine::cuda {

namespace {

// A thread computes N neighbouring elements of one row; width is a multiple of N.
template <class T, int N>
__global__ void __launch_bounds__(kThreads)
    geglu_kernel(const T* __restrict__ x, T* __restrict__ y, uint32_t groups, uint32_t width) {
    const uint32_t group = blockIdx.x * kThreads + threadIdx.x;
    if (group >= groups) return;
    const uint32_t per_row = width / N, row = group / per_row;
    const uint32_t column = (group - row * per_row) * N;
    const T* source = x + int64_t{row} * 2 * width + column;
    float value[N], gate[N];
    load(source, value);
    load(source + width, gate);
#pragma unroll
    for (int i = 0; i < N; ++i)
        value[i] *= 0.5f * gate[i] * (1.0f + erff(gate[i] * 0.70710678118654752f));
    store(y + int64_t{row} * width + column, value);
}

template <class T, int N>
void launch(const GegluArgs& args, cudaStream_t stream) {
    // Slabs of rows, so that a kernel counts in 32 bits; all but huge inputs are one slab.
    const int64_t per_row = args.width / N;
    const int64_t slab = (int64_t{1} << 31) / per_row;
    for (int64_t row = 0; row < args.rows; row += slab) {
        const int64_t groups = std::min(slab, args.rows - row) * per_row;
        const auto* x = static_cast<const T*>(args.x) + row * 2 * args.width;
        auto* y = static_cast<T*>(args.y) + row * args.width;
        geglu_kernel<T, N>
            <<<(groups + kThreads - 1) / kThreads, kThreads, 0, stream>>>(x, y, groups, args.width);
        check_launch("geglu");
    }
}

}  // namespace

void geglu(const GegluArgs& args, DType dtype, cudaStream_t stream) {
    if (checked_count("geglu", args.rows, args.width, 2) == 0) return;
    require(args.x && args.y, "geglu", "null pointer");
    require(args.width < int64_t{1} << 31, "geglu", "width of 2^31 or more");
    with_element_type(dtype, [&]<class T>(T*) {
        if (args.width % kWide<T> == 0 && aligned_16(args.x, args.y))
            launch<T, kWide<T>>(args, stream);
        else
            launch<T, 1>(args, stream);
    });
}

}  // namespace pyengine::cuda
