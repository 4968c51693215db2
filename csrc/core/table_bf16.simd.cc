// The functions of an instruction set that is another one but for bfloat16: see CMakeLists.txt.
#include "table.h"

#include "attention/attention.h"

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

extern const Bf16Functions kBf16Functions;
constinit const Bf16Functions kBf16Functions = {
    .name = PYENGINE_ISA_NAME,
    .attention_pack = attention_bf16_pack,
    .attention = attention_bf16,
    .attention_sizes = attention_bf16_sizes,
    .linear = linear,
    .linear_scratch = linear_scratch,
#ifdef __AMX_BF16__
    .conv2d_strip = conv2d_bf16_strip,
    .conv2d = conv2d_bf16,
    .conv2d_scratch = conv2d_bf16_scratch,
#else
    .conv2d_strip = nullptr,
    .conv2d = nullptr,
    .conv2d_scratch = nullptr,
#endif
};

}  // namespace pyengine::PYENGINE_NS
