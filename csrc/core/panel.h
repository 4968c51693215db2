// How weights are packed, for every instruction set alike: once, at load.
#pragma once

#include <stdint.h>

namespace pyengine {

// Output channels of a panel, which lie side by side.
constexpr int64_t kPanel = 16;

}  // namespace pyengine
