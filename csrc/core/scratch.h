// Working memory of the kernels.
#pragma once

#include <stdint.h>

namespace pyengine {

// Room for that many floats, 64-byte aligned, contents undefined. It belongs to the calling thread,
// which keeps it for its next call (fresh memory costs a page fault every 4 KB, a good part of a
// small product's time) and frees it when it ends: what is kept is the most that one call has asked
// for. Good until the same thread asks again. Throws std::bad_alloc.
float* scratch(int64_t floats);

}  // namespace pyengine
