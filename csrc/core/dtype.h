// Element types of the tensors that kernels read and write; arithmetic is in float32.
#pragma once

#include <stdint.h>

namespace pyengine {

enum class DType : int { float32 = 0, bfloat16 = 1, float16 = 2 };
constexpr int kDTypes = 3;

// Storage of the 16-bit formats. No member functions: kernels widen whole vectors.
struct BFloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

constexpr int64_t size_of(DType dtype) {
    return dtype == DType::float32 ? 4 : 2;
}

}  // namespace pyengine
