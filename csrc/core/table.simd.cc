// One table per instruction set; see CMakeLists.txt.
#include "table.h"

#include "gemm/tile.simd.h"
#include "isa/peak.simd.h"

namespace pyengine::PYENGINE_NS {

#define PYENGINE_EACH(name, parameters)             \
    template <class T>                              \
    void name parameters;                           \
    extern template void name<float> parameters;    \
    extern template void name<BFloat16> parameters; \
    extern template void name<Float16> parameters;
#define PYENGINE_ONE(name, result, parameters) result name parameters;
PYENGINE_KERNELS(PYENGINE_EACH, PYENGINE_ONE)
#undef PYENGINE_EACH
#undef PYENGINE_ONE

// In DType's order.
#define PYENGINE_EACH(name, parameters) .name = {{name<float>, name<BFloat16>, name<Float16>}},
#define PYENGINE_ONE(name, result, parameters) .name = name,
#define PYENGINE_NONE(name, result, parameters) .name = nullptr,

extern const Table kTable;
// Data: no code compiled for this instruction set may run before the CPU was asked.
constinit const Table kTable = {
    .name = PYENGINE_ISA_NAME,
    .lanes = kLanes,
    .tile_rows = kTileRows,
    .tile_depth = kDepth,
    PYENGINE_KERNELS(PYENGINE_EACH, PYENGINE_ONE)  //
    PYENGINE_BFLOAT16_KERNELS(PYENGINE_NONE)       //
    PYENGINE_TILE_KERNELS(PYENGINE_NONE)           //
};

}  // namespace pyengine::PYENGINE_NS
