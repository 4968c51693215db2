#include "scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace pyengine {

namespace {

constexpr int64_t kAlignment = 64;

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

struct Scratch {
    std::unique_ptr<void, Free> memory;
    int64_t floats = 0;
};

}  // namespace

float* scratch(int64_t floats) {
    thread_local Scratch kept;
    if (floats > kept.floats) {
        kept.memory.reset();  // before the larger one is taken, not beside it
        kept.floats = 0;
        if (floats > INT64_MAX / 8) throw std::bad_alloc();
        const int64_t bytes = (floats * 4 + kAlignment - 1) / kAlignment * kAlignment;
        kept.memory.reset(std::aligned_alloc(kAlignment, static_cast<size_t>(bytes)));
        if (!kept.memory) throw std::bad_alloc();
        kept.floats = floats;
    }
    return static_cast<float*>(kept.memory.get());
}

}  // namespace pyengine
