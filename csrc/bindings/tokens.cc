// pyengine._core's kernels of models that draw pictures as tokens; arguments as in core.cc.
#include "tokens.h"

#include <pybind11/stl.h>

#include <array>

#include "arguments.h"
#include "attention/decode_attention.h"
#include "attention/rotary.h"
#include "token/mask_refine.h"
#include "token/sample_token.h"
#include "vq/vq_argmin.h"
#include "vq/vq_decode.h"

namespace py = pybind11;
using namespace pyengine;

void bind_tokens(py::module_& m) {
    m.attr("SAMPLING_COLUMNS") = kSamplingColumns;
    m.def(
        "rotary",  // steps: of x between pictures and between rows; returns a bad position's index
        [](uintptr_t x, const std::array<int64_t, 2>& step, uintptr_t cosines, uintptr_t sines,
           int64_t table_rows, uintptr_t positions, uintptr_t y, int64_t pictures, int64_t rows,
           int64_t heads, int64_t width, int dtype, int threads) {
            const int64_t row = heads * width;
            return rotary({at<void>(x), at<void>(y), step[0], step[1], rows * row, row,
                           at<float>(cosines), at<float>(sines), table_rows, at<int64_t>(positions),
                           nullptr, false, nullptr, pictures, rows, heads, width, dtype_of(dtype)},
                          dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "rotary_cache",  // steps: of q, k, v and both caches, as rotary's
        [](uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t keys, uintptr_t values,
           const std::array<int64_t, 10>& step, uintptr_t cosines, uintptr_t sines,
           int64_t table_rows, uintptr_t lengths, uintptr_t slots, uintptr_t y, int64_t pictures,
           int64_t rows, int64_t cache_rows, int64_t most, int64_t heads, int64_t kv_heads,
           int64_t width, int dtype, int cache_dtype, int threads) {
            const DType x_type = dtype_of(dtype);
            const int64_t row = heads * width;
            const RotaryArgs q_part{.x = at<void>(q),
                                    .y = at<void>(y),
                                    .x_picture = step[0],
                                    .x_row = step[1],
                                    .y_picture = rows * row,
                                    .y_row = row,
                                    .cosines = at<float>(cosines),
                                    .sines = at<float>(sines),
                                    .table_rows = table_rows,
                                    .positions = nullptr,
                                    .lengths = at<int64_t>(lengths),
                                    .into_cache = false,
                                    .slots = nullptr,
                                    .pictures = pictures,
                                    .rows = rows,
                                    .heads = heads,
                                    .width = width,
                                    .y_dtype = x_type};
            RotaryArgs k_part = q_part;
            k_part.x = at<void>(k);
            k_part.y = at<void>(keys);
            k_part.x_picture = step[2];
            k_part.x_row = step[3];
            k_part.y_picture = step[6];
            k_part.y_row = step[7];
            k_part.into_cache = true;
            k_part.slots = at<int64_t>(slots);
            k_part.heads = kv_heads;
            k_part.y_dtype = dtype_of(cache_dtype);
            RotaryArgs v_part = k_part;
            v_part.x = at<void>(v);
            v_part.y = at<void>(values);
            v_part.x_picture = step[4];
            v_part.x_row = step[5];
            v_part.y_picture = step[8];
            v_part.y_row = step[9];
            v_part.cosines = v_part.sines = nullptr;
            return rotary_cache(q_part, k_part, v_part, cache_rows, most, x_type, threads);
        },
        Release());
    m.def(
        "decode_attention",  // steps: of q, k and v between pictures and between rows
        [](uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t y, const std::array<int64_t, 6>& step,
           uintptr_t lengths, uintptr_t slots, int64_t pictures, int64_t rows, int64_t heads,
           int64_t kv_heads, int64_t width, int64_t cache_rows, int64_t most, double scale,
           int dtype, int cache_dtype, int threads) {
            return decode_attention({.q = at<void>(q),
                                     .k = at<void>(k),
                                     .v = at<void>(v),
                                     .y = at<void>(y),
                                     .q_picture = step[0],
                                     .q_row = step[1],
                                     .k_picture = step[2],
                                     .k_row = step[3],
                                     .v_picture = step[4],
                                     .v_row = step[5],
                                     .lengths = at<int64_t>(lengths),
                                     .slots = at<int64_t>(slots),
                                     .cache_rows = cache_rows,
                                     .pictures = pictures,
                                     .rows = rows,
                                     .heads = heads,
                                     .kv_heads = kv_heads,
                                     .width = width,
                                     .most = most,
                                     .scale = static_cast<float>(scale),
                                     .dtype = dtype_of(dtype),
                                     .cache_dtype = dtype_of(cache_dtype)},
                                    threads);
        },
        Release());
    m.def(
        "vq_argmin",
        [](uintptr_t x, uintptr_t codebook, int64_t rows, int64_t stride, int64_t width,
           int64_t entries, int64_t levels, bool cosine, bool residual, uintptr_t indices,
           uintptr_t distances, int dtype, int threads) {
            VqArgminArgs args{};
            args.x = at<void>(x);
            args.codebook = at<float>(codebook);
            args.rows = rows;
            args.stride = stride;
            args.width = width;
            args.entries = entries;
            args.levels = levels;
            args.cosine = cosine;
            args.residual = residual;
            args.indices = at<int64_t>(indices);
            args.distances = at<float>(distances);
            vq_argmin(args, dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "vq_decode",
        [](uintptr_t indices, uintptr_t codebook, int64_t rows, int64_t levels, int64_t entries,
           int64_t width, bool residual, uintptr_t weight, uintptr_t bias, int64_t outputs,
           uintptr_t y, int dtype, int threads) {
            return vq_decode(
                {at<int64_t>(indices), at<void>(codebook), rows, levels, entries, width, residual,
                 at<float>(weight), at<float>(bias), outputs, nullptr, at<void>(y)},
                dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "sample_token",
        [](uintptr_t logits, uintptr_t unconditional, uintptr_t uniform, uintptr_t settings,
           int64_t rows, int64_t size, uintptr_t tokens, int dtype, int threads) {
            sample_token({at<void>(logits), at<void>(unconditional), at<double>(uniform),
                          at<float>(settings), rows, size, at<int64_t>(tokens)},
                         dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "mask_refine",
        [](uintptr_t logits, uintptr_t unconditional, uintptr_t guidance, uintptr_t tokens,
           uintptr_t uniform, uintptr_t race, uintptr_t gumbel, uintptr_t masked,
           uintptr_t temperature, int64_t pictures, int64_t places, int64_t size,
           int64_t mask_token, uintptr_t next, uintptr_t predicted, uintptr_t confidence, int dtype,
           int threads) {
            mask_refine(
                {at<void>(logits), at<void>(unconditional), at<float>(guidance),
                 at<int64_t>(tokens), at<double>(uniform), at<float>(race), at<double>(gumbel),
                 at<int64_t>(masked), at<float>(temperature), pictures, places, size, mask_token,
                 at<int64_t>(next), at<int64_t>(predicted), at<double>(confidence)},
                dtype_of(dtype), threads);
        },
        Release());
}
