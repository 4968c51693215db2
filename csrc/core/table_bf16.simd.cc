// An instruction set that is another one with functions of its own for bfloat16: see
// CMakeLists.txt.
#include "table.h"

#include "attention/attention.h"

namespace pyengine::PYENGINE_BASE {
extern const Table kTable;
}

namespace pyengine::PYENGINE_NS {

void linear(const LinearArgs&, const LinearShare&, float* scratch);
int64_t linear_scratch(const LinearArgs&, const LinearShare&);
void attention_bf16_pack(const AttentionWork&, int64_t begin, int64_t end);
void attention_bf16(const AttentionWork&, int64_t begin, int64_t end);
AttentionSizes attention_bf16_sizes(const AttentionArgs&);
#ifdef __AMX_BF16__
void conv2d_bf16_strip(const DirectBf16Args&, int64_t begin, int64_t end);
void conv2d_bf16(const DirectBf16Args&, int64_t begin, int64_t end);
int64_t conv2d_bf16_scratch(const DirectBf16Args&);
#endif

Table refined() {
    Table table = PYENGINE_BASE::kTable;
    table.name = PYENGINE_ISA_NAME;
    const int bfloat16 = static_cast<int>(DType::bfloat16);
    table.attention_pack[bfloat16] = attention_bf16_pack;
    table.attention[bfloat16] = attention_bf16;
    table.attention_bf16_sizes = attention_bf16_sizes;
    table.linear = linear;
    table.linear_scratch = linear_scratch;
#ifdef __AMX_BF16__
    table.conv2d_bf16_strip = conv2d_bf16_strip;
    table.conv2d_bf16 = conv2d_bf16;
    table.conv2d_bf16_scratch = conv2d_bf16_scratch;
#endif
    return table;
}

}  // namespace pyengine::PYENGINE_NS
