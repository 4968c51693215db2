// The kernels that exist once per instruction set, in one list: table.h makes the table's fields of
// it, table.simd.cc the declarations and the row, each by its name. A kernel is added here, defined
// in a *.simd.cc and, where it is of EACH dtype, instantiated there by PYENGINE_INSTANTIATE.
//
//   EACH(name, (parameters))         void name<T>(parameters) for each DType of activations
//   ONE(name, result, (parameters))  one function
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct AttentionArgs;
struct AttentionSizes;
struct AttentionWork;
struct ConvInt8Work;
struct DecodeAttentionArgs;
struct DecodeAttentionShare;
struct DirectArgs;
struct DirectBf16Args;
struct GegluArgs;
struct GroupNormApplyArgs;
struct GroupNormArgs;
struct LayerNormArgs;
struct LinearArgs;
struct LinearInt8Work;
struct LinearShare;
struct PeakArgs;
struct RaceArgs;
struct RotaryArgs;
struct SamplerStepArgs;
struct TokenWeightsArgs;
struct VqDecodeWork;
struct VqPackArgs;
struct VqSearch;
struct WinogradArgs;

}  // namespace pyengine

// The parameters of a kernel that works on the independent items [begin, end) of one call. Which
// thread runs which range never changes a bit of the result: items share no accumulator.
#define PYENGINE_RANGE(Args) (const Args&, int64_t begin, int64_t end)

// Of every table.
#define PYENGINE_KERNELS(EACH, ONE)                                                           \
    EACH(attention, PYENGINE_RANGE(AttentionWork))                                            \
    EACH(attention_pack, PYENGINE_RANGE(AttentionWork))                                       \
    EACH(conv2d_direct, PYENGINE_RANGE(DirectArgs))                                           \
    ONE(conv2d_int8, void, PYENGINE_RANGE(ConvInt8Work))                                      \
    ONE(conv2d_int8_strip, void, PYENGINE_RANGE(ConvInt8Work)) /* shares of its rows */       \
    EACH(decode_attention, (const DecodeAttentionArgs&, const DecodeAttentionShare&))         \
    ONE(decode_attention_scratch, int64_t, (const DecodeAttentionArgs&)) /* floats a share */ \
    EACH(geglu, PYENGINE_RANGE(GegluArgs))                                                    \
    EACH(group_norm_apply, PYENGINE_RANGE(GroupNormApplyArgs))                                \
    EACH(group_norm_statistics, PYENGINE_RANGE(GroupNormArgs))                                \
    EACH(layer_norm, PYENGINE_RANGE(LayerNormArgs))                                           \
    PYENGINE_LINEAR_KERNELS(ONE)                                                              \
    ONE(linear_int8, void, PYENGINE_RANGE(LinearInt8Work))                                    \
    ONE(linear_int8_rows, void, PYENGINE_RANGE(LinearInt8Work)) /* shares of the rows */      \
    ONE(multiply_adds, void, PYENGINE_RANGE(PeakArgs))                                        \
    EACH(rms_norm, PYENGINE_RANGE(LayerNormArgs))                                             \
    EACH(rotary, PYENGINE_RANGE(RotaryArgs))                                                  \
    EACH(sampler_step, PYENGINE_RANGE(SamplerStepArgs))                                       \
    EACH(swiglu, PYENGINE_RANGE(GegluArgs))                                                   \
    ONE(token_race, void, PYENGINE_RANGE(RaceArgs))                                           \
    EACH(token_weights, PYENGINE_RANGE(TokenWeightsArgs))                                     \
    EACH(vq_argmin, PYENGINE_RANGE(VqSearch))                                                 \
    EACH(vq_decode, PYENGINE_RANGE(VqDecodeWork))                                             \
    ONE(vq_pack, void, PYENGINE_RANGE(VqPackArgs))                                            \
    EACH(winograd_input, PYENGINE_RANGE(WinogradArgs))  /* by x's DType */                    \
    EACH(winograd_output, PYENGINE_RANGE(WinogradArgs)) /* by the weight's DType */

// Shares of a product do not touch each other's rows and outputs. Instruction sets that multiply
// bfloat16 have functions of their own for it.
#define PYENGINE_LINEAR_KERNELS(ONE)                                           \
    ONE(linear, void, (const LinearArgs&, const LinearShare&, float* scratch)) \
    ONE(linear_scratch, int64_t, (const LinearArgs&, const LinearShare&)) /* floats */

// Null but where an instruction set multiplies bfloat16.
#define PYENGINE_BFLOAT16_KERNELS(ONE) \
    ONE(attention_bf16_sizes, AttentionSizes, (const AttentionArgs&))

// Null but where it multiplies tiles of bfloat16.
#define PYENGINE_TILE_KERNELS(ONE)                                                       \
    ONE(conv2d_bf16, void, PYENGINE_RANGE(DirectBf16Args))                               \
    ONE(conv2d_bf16_scratch, int64_t, (const DirectBf16Args&))   /* floats of an item */ \
    ONE(conv2d_bf16_strip, void, PYENGINE_RANGE(DirectBf16Args)) /* its rows */

// At the end of a *.simd.cc: a kernel's functions for EACH dtype.
#define PYENGINE_INSTANTIATE(kernel, parameters) \
    template void kernel<float> parameters;      \
    template void kernel<BFloat16> parameters;   \
    template void kernel<Float16> parameters
