// Groups of elements that a thread reads and writes in one access, and their float32 values.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

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

// N neighbouring elements, as one access of the hardware: 16 bytes, or one element.
template <class T, int N>
struct Vector {
    static_assert(N == 1 || N * sizeof(T) == sizeof(uint4));
    using Access = std::conditional_t<N == 1, T, uint4>;
    union {
        Access whole;
        T element[N];
    };
    __device__ Vector() {}
};

// The pointer must be aligned to all N.
template <int N, class T>
__device__ inline void load(const T* from, float (&to)[N]) {
    Vector<T, N> v;
    v.whole = *reinterpret_cast<const typename Vector<T, N>::Access*>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = widen(v.element[i]);
}

template <int N, class T>
__device__ inline void store(T* to, const float (&from)[N]) {
    Vector<T, N> v;
#pragma unroll
    for (int i = 0; i < N; ++i) v.element[i] = narrow<T>(from[i]);
    // An instruction by name: the compiler takes a plain 16-byte store apart into four.
    if constexpr (N > 1)
        __stcg(reinterpret_cast<uint4*>(to), v.whole);
    else
        *to = v.whole;
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
