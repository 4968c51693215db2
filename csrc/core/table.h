// The functions that exist once per instruction set, and the choice among them.
//
// A table's functions work on a range [begin, end) of independent items of one call. Which thread
// runs which range never changes a bit of the result: items share no accumulator.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct AttentionArgs;
struct AttentionSizes;
struct DirectArgs;
struct DirectBf16Args;
struct ConvInt8Work;
struct AttentionWork;
struct DecodeAttentionArgs;
struct DecodeAttentionShare;
struct GegluArgs;
struct GroupNormArgs;
struct GroupNormApplyArgs;
struct LayerNormArgs;
struct LinearArgs;
struct LinearInt8Work;
struct LinearShare;
struct RotaryArgs;
struct SamplerStepArgs;
struct WinogradArgs;
struct RaceArgs;
struct TokenWeightsArgs;
struct VqArgminArgs;
struct VqDecodeArgs;
struct VqPackArgs;

template <class Args>
using RangeFunction = void (*)(const Args&, int64_t begin, int64_t end);

struct Table {
    const char* name;
    int lanes;  // float32 elements of a vector
    // One function per DType.
    RangeFunction<DirectArgs> conv2d_direct[kDTypes];
    RangeFunction<AttentionWork> attention_pack[kDTypes];
    RangeFunction<AttentionWork> attention[kDTypes];
    RangeFunction<GegluArgs> geglu[kDTypes];
    RangeFunction<GegluArgs> swiglu[kDTypes];
    RangeFunction<GroupNormArgs> group_norm_statistics[kDTypes];
    RangeFunction<GroupNormApplyArgs> group_norm_apply[kDTypes];
    RangeFunction<LayerNormArgs> layer_norm[kDTypes];
    RangeFunction<LayerNormArgs> rms_norm[kDTypes];
    RangeFunction<RotaryArgs> rotary[kDTypes];
    RangeFunction<SamplerStepArgs> sampler_step[kDTypes];
    // By the cache's DType.
    void (*decode_attention[kDTypes])(const DecodeAttentionArgs&, const DecodeAttentionShare&);
    int64_t (*decode_attention_scratch)(const DecodeAttentionArgs&);  // floats
    // One share of the work; shares do not touch each other's rows and outputs.
    void (*linear)(const LinearArgs&, const LinearShare&, float* scratch);
    int64_t (*linear_scratch)(const LinearArgs&, const LinearShare&);  // floats
    int tile_rows;                                                     // of the register tile
    int tile_depth;                                        // from a row of its A to the next
    RangeFunction<WinogradArgs> winograd_input[kDTypes];   // of x
    RangeFunction<WinogradArgs> winograd_output[kDTypes];  // of the weights
    RangeFunction<TokenWeightsArgs> token_weights[kDTypes];
    RangeFunction<VqArgminArgs> vq_argmin[kDTypes];
    RangeFunction<VqDecodeArgs> vq_decode[kDTypes];
    // On float32 alone.
    RangeFunction<RaceArgs> token_race;
    RangeFunction<VqPackArgs> vq_pack;
    // Null but where attention multiplies bfloat16.
    AttentionSizes (*attention_bf16_sizes)(const AttentionArgs&);
    // Null but where bfloat16 is multiplied in tiles.
    RangeFunction<DirectBf16Args> conv2d_bf16_strip;
    RangeFunction<DirectBf16Args> conv2d_bf16;
    int64_t (*conv2d_bf16_scratch)(const DirectBf16Args&);  // floats of an item
    // Of linear's products in int8: rows to be rounded, and shares of the work.
    RangeFunction<LinearInt8Work> linear_int8_rows;
    RangeFunction<LinearInt8Work> linear_int8;
    // The same of conv2d's: rows of the strip, and items.
    RangeFunction<ConvInt8Work> conv2d_int8_strip;
    RangeFunction<ConvInt8Work> conv2d_int8;
};

// What an instruction set of its own for bfloat16 has in place of another table's functions. Data,
// because no code compiled for it may run before the CPU was asked.
struct Bf16Functions {
    const char* name;
    RangeFunction<AttentionWork> attention_pack;
    RangeFunction<AttentionWork> attention;
    AttentionSizes (*attention_sizes)(const AttentionArgs&);
    void (*linear)(const LinearArgs&, const LinearShare&, float* scratch);
    int64_t (*linear_scratch)(const LinearArgs&, const LinearShare&);
    // Null but where bfloat16 is multiplied in tiles.
    RangeFunction<DirectBf16Args> conv2d_strip;
    RangeFunction<DirectBf16Args> conv2d;
    int64_t (*conv2d_scratch)(const DirectBf16Args&);
};

// The table in use: PYENGINE_ISA's when that is set, otherwise the best that this CPU and its
// operating system run. Throws std::runtime_error if PYENGINE_ISA names one that they do not.
const Table& table();

}  // namespace pyengine
