// The functions that exist once per instruction set, and the choice among them.
#pragma once

#include "kernels.h"

namespace pyengine {

template <class Args>
using RangeFunction = void (*)(const Args&, int64_t begin, int64_t end);

// A kernel's functions, one for each DType that activations have. Always inline: files of different
// instruction sets include it.
template <class Function>
struct PerDType {
    Function of[kDTypes];

    [[gnu::always_inline]] Function operator[](DType dtype) const {
        return of[static_cast<int>(dtype)];
    }
};

struct Table {
    const char* name;
    int lanes;       // float32 elements of a vector
    int tile_rows;   // of the register tile
    int tile_depth;  // floats from a row of its A to the next

#define PYENGINE_EACH(name, parameters) PerDType<void(*) parameters> name;
#define PYENGINE_ONE(name, result, parameters) result(*name) parameters;
    PYENGINE_KERNELS(PYENGINE_EACH, PYENGINE_ONE)
    PYENGINE_BFLOAT16_KERNELS(PYENGINE_ONE)
    PYENGINE_TILE_KERNELS(PYENGINE_ONE)
};

// What an instruction set of its own for bfloat16 has in place of another table's functions. Data,
// because no code compiled for it may run before the CPU was asked.
#define PYENGINE_BFLOAT16_OWN_KERNELS(ONE) \
    PYENGINE_LINEAR_KERNELS(ONE)           \
    PYENGINE_BFLOAT16_KERNELS(ONE)         \
    PYENGINE_TILE_KERNELS(ONE)
struct Bf16Functions {
    const char* name;
    RangeFunction<AttentionWork> attention_bf16;
    RangeFunction<AttentionWork> attention_bf16_pack;
    PYENGINE_BFLOAT16_OWN_KERNELS(PYENGINE_ONE)
};
#undef PYENGINE_EACH
#undef PYENGINE_ONE

// The table in use: PYENGINE_ISA's when that is set, otherwise the best that this CPU and its
// operating system run. Throws std::runtime_error if PYENGINE_ISA names one that they do not.
const Table& table();

}  // namespace pyengine
