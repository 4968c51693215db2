// Groups of elements that a thread reads and writes in one access, and their float32 values.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "dtype.h"

namespace pyengine::cuda {

__device__ inline float widen(float v) {
    return v;
}
__device__ inline float widen(__nv_bfloat16 v) {
    return __bfloat162float(v);
}
__device__ inline float widen(__half v) {
    return __half2float(v);
}

// To the nearest, ties to even.
template <class T>
__device__ T narrow(float v);
template <>
__device__ inline float narrow<float>(float v) {
    return v;
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
    return __float2bfloat16_rn(v);
}
template <>
__device__ inline __half narrow<__half>(float v) {
    return __float2half_rn(v);
}

// N neighbouring elements. The pointer must be aligned to all of them.
template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
    T element[N];
};

template <int N, class T>
__device__ inline void load(const T* from, float (&to)[N]) {
    const auto v = *reinterpret_cast<const Vector<T, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = widen(v.element[i]);
}

template <int N, class T>
__device__ inline void store(T* to, const float (&from)[N]) {
    Vector<T, N> v;
#pragma unroll
    for (int i = 0; i < N; ++i) v.element[i] = narrow<T>(from[i]);
    *reinterpret_cast<Vector<T, N>*>(to) = v;
}

// Elements of T in a 16-byte access, the widest that a thread has on every chip.
template <class T>
constexpr int kWide = 16 / sizeof(T);

template <class... Pointers>
bool aligned_16(Pointers... pointers) {
    return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls run with a null pointer of the dtype's element type.
template <class Run>
void with_element_type(DType dtype, const Run& run) {
    switch (dtype) {
        case DType::float32:
            return run(static_cast<float*>(nullptr));
        case DType::bfloat16:
            return run(static_cast<__nv_bfloat16*>(nullptr));
        case DType::float16:
            return run(static_cast<__half*>(nullptr));
    }
}

constexpr int kThreads = 256;

}  // namespace pyengine::cuda
