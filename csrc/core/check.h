// Checks of arguments, so that no call, however wrong, reads or writes where it should not.
#pragma once

#include <stdint.h>

#include <stdexcept>
#include <string>

namespace pyengine {

inline void require(bool condition, const char* op, const std::string& message) {
    if (!condition) throw std::invalid_argument(std::string(op) + ": " + message);
}

// a * b * ... as a count of elements that fits in an address space, or an exception.
template <class... Sizes>
int64_t checked_count(const char* op, Sizes... sizes) {
    int64_t product = 1;
    for (int64_t size : {static_cast<int64_t>(sizes)...}) {
        require(size >= 0, op, "negative size " + std::to_string(size));
        require(!__builtin_mul_overflow(product, size, &product), op, "sizes overflow");
    }
    require(product <= INT64_MAX / 64, op, "sizes overflow");
    return product;
}

}  // namespace pyengine
