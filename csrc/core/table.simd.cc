// One table per instruction set; see CMakeLists.txt.
#include "table.h"

#include "activation/geglu.h"
#include "attention/attention.h"
#include "attention/decode_attention.h"
#include "attention/rotary.h"
#include "conv/direct.h"
#include "conv/winograd.h"
#include "gemm/linear.h"
#include "gemm/tile.simd.h"
#include "norm/group_norm_silu.h"
#include "norm/layer_norm.h"
#include "sampler/sampler_step.h"
#include "token/mask_refine.h"
#include "token/sample_token.h"
#include "vq/vq_argmin.h"
#include "vq/vq_decode.h"

namespace pyengine::PYENGINE_NS {

#define PYENGINE_DECLARE(function, Args)                                    \
    template <class T>                                                      \
    void function(const Args&, int64_t begin, int64_t end);                 \
    extern template void function<float>(const Args&, int64_t, int64_t);    \
    extern template void function<BFloat16>(const Args&, int64_t, int64_t); \
    extern template void function<Float16>(const Args&, int64_t, int64_t)

PYENGINE_DECLARE(conv2d_direct, DirectArgs);
PYENGINE_DECLARE(attention_pack, AttentionWork);
PYENGINE_DECLARE(attention, AttentionWork);
PYENGINE_DECLARE(geglu, GegluArgs);
PYENGINE_DECLARE(swiglu, GegluArgs);
PYENGINE_DECLARE(group_norm_statistics, GroupNormArgs);
PYENGINE_DECLARE(group_norm_apply, GroupNormApplyArgs);
PYENGINE_DECLARE(layer_norm, LayerNormArgs);
PYENGINE_DECLARE(rms_norm, LayerNormArgs);
PYENGINE_DECLARE(rotary, RotaryArgs);
PYENGINE_DECLARE(sampler_step, SamplerStepArgs);
PYENGINE_DECLARE(winograd_input, WinogradArgs);
PYENGINE_DECLARE(winograd_output, WinogradArgs);
PYENGINE_DECLARE(token_weights, TokenWeightsArgs);
PYENGINE_DECLARE(vq_argmin, VqArgminArgs);
PYENGINE_DECLARE(vq_decode, VqDecodeArgs);

template <class T>
void decode_attention(const DecodeAttentionArgs&, const DecodeAttentionShare&);
int64_t decode_attention_scratch(const DecodeAttentionArgs&);
void linear(const LinearArgs&, const LinearShare&, float* scratch);
int64_t linear_scratch(const LinearArgs&, const LinearShare&);
void linear_int8_rows(const LinearInt8Work&, int64_t begin, int64_t end);
void linear_int8(const LinearInt8Work&, int64_t begin, int64_t end);
void conv2d_int8_strip(const ConvInt8Work&, int64_t begin, int64_t end);
void conv2d_int8(const ConvInt8Work&, int64_t begin, int64_t end);
void token_race(const RaceArgs&, int64_t begin, int64_t end);
void vq_pack(const VqPackArgs&, int64_t begin, int64_t end);

// DType's order.
#define PYENGINE_ROW(function) {function<float>, function<BFloat16>, function<Float16>}

extern const Table kTable;
// Data: no code compiled for this instruction set may run before the CPU was asked.
constinit const Table kTable = {
    PYENGINE_ISA_NAME,
    PYENGINE_LANES,
    PYENGINE_ROW(conv2d_direct),
    PYENGINE_ROW(attention_pack),
    PYENGINE_ROW(attention),
    PYENGINE_ROW(geglu),
    PYENGINE_ROW(swiglu),
    PYENGINE_ROW(group_norm_statistics),
    PYENGINE_ROW(group_norm_apply),
    PYENGINE_ROW(layer_norm),
    PYENGINE_ROW(rms_norm),
    PYENGINE_ROW(rotary),
    PYENGINE_ROW(sampler_step),
    PYENGINE_ROW(decode_attention),
    decode_attention_scratch,
    linear,
    linear_scratch,
    kTileRows,
    kDepth,
    PYENGINE_ROW(winograd_input),
    PYENGINE_ROW(winograd_output),
    PYENGINE_ROW(token_weights),
    PYENGINE_ROW(vq_argmin),
    PYENGINE_ROW(vq_decode),
    token_race,
    vq_pack,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    linear_int8_rows,
    linear_int8,
    conv2d_int8_strip,
    conv2d_int8,
};

}  // namespace pyengine::PYENGINE_NS
