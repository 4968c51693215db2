// The functions of an instruction set that is another one but for bfloat16: see CMakeLists.txt.
#include "attention/attention.h"
#include "table.h"

namespace pyengine::PYENGINE_NS {

void attention_bf16 PYENGINE_RANGE(AttentionWork);
void attention_bf16_pack PYENGINE_RANGE(AttentionWork);
#define PYENGINE_DECLARE(name, result, parameters) result name parameters;
PYENGINE_BFLOAT16_OWN_KERNELS(PYENGINE_DECLARE)

#define PYENGINE_ONE(name, result, parameters) .name = name,
#ifdef __AMX_BF16__
#define PYENGINE_TILE PYENGINE_ONE
#else
#define PYENGINE_TILE(name, result, parameters) .name = nullptr,
#endif

extern const Bf16Functions kBf16Functions;
constinit const Bf16Functions kBf16Functions = {
    .name = PYENGINE_ISA_NAME,
    .attention_bf16 = attention_bf16,
    .attention_bf16_pack = attention_bf16_pack,
    PYENGINE_LINEAR_KERNELS(PYENGINE_ONE)    //
    PYENGINE_BFLOAT16_KERNELS(PYENGINE_ONE)  //
    PYENGINE_TILE_KERNELS(PYENGINE_TILE)     //
};

}  // namespace pyengine::PYENGINE_NS
