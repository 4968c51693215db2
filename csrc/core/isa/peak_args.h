// The arguments of the kernel behind peak.h, without std:: headers, which vector code does not see.
#pragma once

#include <stdint.h>

namespace pyengine {

// Chains of multiply-adds that do not wait for each other: two units of a latency of at most 5
// cycles need 10, and 12 with their two operands fit 16 registers.
constexpr int kPeakChains = 12;

struct PeakArgs {
    int64_t turns;
    float* last;  // [items]: sum over the chains c of x after `turns` of x = x / 2 + 1, from c + 3
};

}  // namespace pyengine
