// Element types of the tensors that kernels read and write; arithmetic is in float32.
#pragma once

#include <stdint.h>

namespace pyengine {

// int8 is for the weights of matrix products alone: numbers that each output channel scales.
enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2, int8 = 3 };
constexpr int kDTypes = 3;  // that activations may have: the first ones

// Storage of the narrow formats. No member functions: kernels widen whole vectors.
struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};
struct Int8 {
    int8_t value;
};

constexpr int64_t size_of(DType dtype) {
    return dtype == DType::float32 ? 4 : dtype == DType::int8 ? 1 : 2;
}

}  // namespace pyengine
