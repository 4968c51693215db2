// pyengine._core's kernels of models that draw pictures as tokens; arguments as in core.cc.
#include "tokens.h"

#include "arguments.h"
#include "attention/decode_attention.h"
#include "attention/rotary.h"
#include "fields.h"
#include "token/mask_refine.h"
#include "token/sample_token.h"
#include "vq/vq_argmin.h"
#include "vq/vq_decode.h"

namespace py = pybind11;
using namespace pyengine;

namespace {

void bind_cache(py::module_& m) {
#define FIELD(name) field<&RotaryArgs::name>(#name)
    ArgsClass<RotaryArgs>::bind(
        m, "RotaryArgs", "Rows on their way to a result or a cache: csrc/core/attention/rotary.h.",
        {FIELD(x), FIELD(y), FIELD(x_picture), FIELD(x_row), FIELD(y_picture), FIELD(y_row),
         FIELD(cosines), FIELD(sines), FIELD(table_rows), FIELD(positions), FIELD(lengths),
         FIELD(into_cache), FIELD(slots), FIELD(pictures), FIELD(rows), FIELD(heads), FIELD(width),
         FIELD(y_dtype)});
#undef FIELD
    bind_kernel<RotaryArgs, rotary>(
        m, "rotary", "Turns each head's halves; returns -1, or the row of a bad position.");

#define FIELD(name) field<&RotaryCacheArgs::name>(#name)
    ArgsClass<RotaryCacheArgs>::bind(m, "RotaryCacheArgs",
                                     "New rows and their cache: csrc/core/attention/rotary.h.",
                                     {FIELD(q),
                                      FIELD(k),
                                      FIELD(v),
                                      FIELD(y),
                                      FIELD(k_cache),
                                      FIELD(v_cache),
                                      FIELD(q_picture),
                                      FIELD(q_row),
                                      FIELD(k_picture),
                                      FIELD(k_row),
                                      FIELD(v_picture),
                                      FIELD(v_row),
                                      FIELD(k_cache_picture),
                                      FIELD(k_cache_row),
                                      FIELD(v_cache_picture),
                                      FIELD(v_cache_row),
                                      FIELD(cosines),
                                      FIELD(sines),
                                      FIELD(table_rows),
                                      FIELD(lengths),
                                      FIELD(slots),
                                      FIELD(pictures),
                                      FIELD(rows),
                                      FIELD(cache_rows),
                                      FIELD(most),
                                      FIELD(heads),
                                      FIELD(kv_heads),
                                      FIELD(width),
                                      FIELD(dtype),
                                      FIELD(cache_dtype)});
#undef FIELD
    bind_kernel<RotaryCacheArgs, rotary_cache>(
        m, "rotary_cache",
        "Turns queries, and keys into a cache; values go as they are. Returns -1, or the picture "
        "that has no room.");

#define FIELD(name) field<&DecodeAttentionArgs::name>(#name)
    ArgsClass<DecodeAttentionArgs>::bind(
        m, "DecodeAttentionArgs", "New tokens and a cache: csrc/core/attention/decode_attention.h.",
        {FIELD(q),       FIELD(k),          FIELD(v),          FIELD(y),         FIELD(q_picture),
         FIELD(q_row),   FIELD(k_picture),  FIELD(k_row),      FIELD(v_picture), FIELD(v_row),
         FIELD(lengths), FIELD(slots),      FIELD(cache_rows), FIELD(pictures),  FIELD(rows),
         FIELD(heads),   FIELD(kv_heads),   FIELD(width),      FIELD(most),      FIELD(scale),
         FIELD(dtype),   FIELD(cache_dtype)});
#undef FIELD
    bind_kernel<DecodeAttentionArgs, decode_attention>(
        m, "decode_attention",
        "Attends to a cache; returns -1, or the picture whose slot or length is bad.");
}

void bind_codebooks(py::module_& m) {
#define FIELD(name) field<&VqArgminArgs::name>(#name)
    ArgsClass<VqArgminArgs>::bind(
        m, "VqArgminArgs", "Rows and a codebook: csrc/core/vq/vq_argmin.h.",
        {FIELD(x), FIELD(codebook), FIELD(rows), FIELD(stride), FIELD(width), FIELD(entries),
         FIELD(levels), FIELD(cosine), FIELD(residual), FIELD(indices), FIELD(distances)});
#undef FIELD
    bind_kernel<VqArgminArgs, vq_argmin>(m, "vq_argmin", "Each row's nearest entries.");

#define FIELD(name) field<&VqDecodeArgs::name>(#name)
    ArgsClass<VqDecodeArgs>::bind(
        m, "VqDecodeArgs", "Indices and a codebook: csrc/core/vq/vq_decode.h.",
        {FIELD(indices), FIELD(codebook), FIELD(rows), FIELD(levels), FIELD(entries), FIELD(width),
         FIELD(residual), FIELD(weight), FIELD(bias), FIELD(outputs), FIELD(y)});
#undef FIELD
    bind_kernel<VqDecodeArgs, vq_decode>(
        m, "vq_decode", "Entries, and their product; returns -1, or where a bad index is.");
}

void bind_sampling(py::module_& m) {
    m.attr("SAMPLING_COLUMNS") = kSamplingColumns;
#define FIELD(name) field<&SampleTokenArgs::name>(#name)
    ArgsClass<SampleTokenArgs>::bind(m, "SampleTokenArgs",
                                     "Rows of logits: csrc/core/token/sample_token.h.",
                                     {FIELD(logits), FIELD(unconditional), FIELD(uniform),
                                      FIELD(settings), FIELD(rows), FIELD(size), FIELD(tokens)});
#undef FIELD
    bind_kernel<SampleTokenArgs, sample_token>(
        m, "sample_token", "Draws a token for each row; negative: why there is none.");

#define FIELD(name) field<&MaskRefineArgs::name>(#name)
    ArgsClass<MaskRefineArgs>::bind(
        m, "MaskRefineArgs", "Pictures of tokens: csrc/core/token/mask_refine.h.",
        {FIELD(logits), FIELD(unconditional), FIELD(guidance), FIELD(tokens), FIELD(uniform),
         FIELD(race), FIELD(gumbel), FIELD(masked), FIELD(temperature), FIELD(pictures),
         FIELD(places), FIELD(size), FIELD(mask_token), FIELD(next), FIELD(predicted),
         FIELD(confidence)});
#undef FIELD
    bind_kernel<MaskRefineArgs, mask_refine>(
        m, "mask_refine", "Draws all masked tokens and masks the least certain again.");
}

}  // namespace

void bind_tokens(py::module_& m) {
    bind_cache(m);
    bind_codebooks(m);
    bind_sampling(m);
}
