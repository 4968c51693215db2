// pyengine._core: the CPU kernels for Python. A list of functions, no logic.
//
// Tensors come as the address of their first element, 0 for one that is absent; all are contiguous,
// and the caller keeps them alive. dtype: 0 float32, 1 bfloat16, 2 float16. Sizes count elements.
// The GIL is released around every kernel; std::invalid_argument becomes ValueError, std::bad_alloc
// pyengine.errors.OutOfMemoryError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <array>

#include "activation/geglu.h"
#include "arena.h"
#include "attention/attention.h"
#include "attention/decode_attention.h"
#include "attention/rotary.h"
#include "conv/algorithm.h"
#include "conv/conv2d.h"
#include "gemm/linear.h"
#include "instruction_sets.h"
#include "memory/pack_weight.h"
#include "norm/group_norm_silu.h"
#include "norm/layer_norm.h"
#include "parallel.h"
#include "sampler/sampler_step.h"
#include "table.h"
#include "token/mask_refine.h"
#include "token/sample_token.h"
#include "vq/vq_argmin.h"
#include "vq/vq_decode.h"

namespace py = pybind11;
using namespace pyengine;

namespace {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

DType dtype_of(int code) {
    if (code < 0 || code >= kDTypes)
        throw std::invalid_argument("no dtype " + std::to_string(code));
    return static_cast<DType>(code);
}

DType weight_dtype_of(int code) {
    return code == static_cast<int>(DType::int8) ? DType::int8 : dtype_of(code);
}

Activation activation_of(int code) {
    if (code < 0 || code >= kActivations)
        throw std::invalid_argument("no activation " + std::to_string(code));
    return static_cast<Activation>(code);
}

// "" for the table's choice.
int algorithm_of(const std::string& name) {
    if (name.empty()) return -1;
    int code = 0;
    for (const char* known : kConvAlgorithms) {
        if (name == known) return code;
        ++code;
    }
    throw std::invalid_argument("no algorithm " + name);
}

// The working memory of kernels is all that they allocate.
void translate_out_of_memory(std::exception_ptr thrown) {
    try {
        if (thrown) std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
        const py::object error = py::module_::import("pyengine.errors").attr("OutOfMemoryError");
        PyErr_SetString(error.ptr(),
                        "a CPU kernel did not get the working memory that it needs; fewer pictures "
                        "at once or smaller ones need less");
    }
}

// Without the GIL while it lives. A thread that wants it back after the interpreter has begun to
// end is unwound by Python before 3.14, which in a destructor ends the process with std::terminate,
// as py::gil_scoped_release does; here it waits for the end of the process, as in later versions.
class WithoutGil {
 public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) pause();
        }
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

 private:
    PyThreadState* state_;
};

using Release = py::call_guard<WithoutGil>;

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "CPU kernels of pyengine; see csrc/bindings/core.cc. Use pyengine.ops instead.";
    table();  // a PYENGINE_ISA that cannot be had fails here, not in the first kernel
    survive_forks();
    py::register_local_exception_translator(&translate_out_of_memory);

    m.attr("SANITIZERS") = PYENGINE_SANITIZE;
    m.attr("SAMPLER_COLUMNS") = kSamplerColumns;
    m.attr("SAMPLING_COLUMNS") = kSamplingColumns;
    m.def("isa", [] { return std::string(table().name); });
    m.def("lanes", [] { return table().lanes; });
    m.def("set_isa", &set_instruction_set, py::arg("name"));
    m.def("isas", [] {
        py::dict sets;  // name -> why it does not run here, or ""
        for (const InstructionSet& set : instruction_sets())
            sets[set.name.c_str()] = set.unavailable;
        return sets;
    });
    m.def("pool_threads", &pool_threads);
    m.def("openmp_lost_its_threads", &openmp_lost_its_threads);
    bind_arena(m);
    m.def(
        "pack_weight",
        [](uintptr_t weight, uintptr_t packed, int64_t channels_out, int64_t channels, int64_t taps,
           int item_size, int threads) {
            pack_weight({at<void>(weight), at<void>(packed), channels_out, channels, taps},
                        item_size, threads);
        },
        Release());

    m.def(
        "conv2d",
        [](uintptr_t x, uintptr_t x2, uintptr_t weight, uintptr_t bias, uintptr_t scale,
           uintptr_t shift, uintptr_t channel_add, uintptr_t residual, uintptr_t y,
           int64_t pictures, int64_t height, int64_t width, int64_t channels, int64_t channels2,
           int64_t height_out, int64_t width_out, int64_t channels_out, int64_t kernel_height,
           int64_t kernel_width, int64_t stride, int64_t top, int64_t left, bool silu,
           bool upsample, int dtype, int weight_dtype, const std::string& algorithm, int threads) {
            conv2d({at<void>(x),
                    at<void>(x2),
                    at<void>(weight),
                    at<float>(bias),
                    at<float>(scale),
                    at<float>(shift),
                    at<void>(channel_add),
                    at<void>(residual),
                    at<void>(y),
                    pictures,
                    height,
                    width,
                    channels,
                    channels2,
                    height_out,
                    width_out,
                    channels_out,
                    kernel_height,
                    kernel_width,
                    stride,
                    top,
                    left,
                    silu,
                    upsample,
                    dtype_of(dtype),
                    dtype_of(weight_dtype)},
                   algorithm_of(algorithm), threads);
        },
        Release());
    m.def("conv2d_algorithm", [](int64_t height_out, int64_t width_out, int64_t channels,
                                 int64_t channels_out, int64_t kernel_height, int64_t kernel_width,
                                 int64_t stride, bool upsample, int weight_dtype) {
        const ConvShape shape{height_out,   width_out,     channels,
                              channels_out, kernel_height, kernel_width,
                              stride,       upsample,      dtype_of(weight_dtype)};
        return kConvAlgorithms[static_cast<int>(choose_algorithm(shape, table().lanes))];
    });
    m.def(
        "attention",  // steps: of q, k and v between pictures and between rows; then the mask's
                      // four
        [](uintptr_t q, uintptr_t k, uintptr_t v, uintptr_t mask, uintptr_t y,
           const std::array<int64_t, 6>& step, const std::array<int64_t, 4>& mask_step,
           int64_t pictures, int64_t heads, int64_t queries, int64_t keys, int64_t width,
           int64_t value_width, double scale, bool causal, int dtype, int threads) {
            attention({at<void>(q),
                       at<void>(k),
                       at<void>(v),
                       at<void>(y),
                       step[0],
                       step[1],
                       step[2],
                       step[3],
                       step[4],
                       step[5],
                       at<float>(mask),
                       {mask_step[0], mask_step[1], mask_step[2], mask_step[3]},
                       pictures,
                       heads,
                       queries,
                       keys,
                       width,
                       value_width,
                       static_cast<float>(scale),
                       causal},
                      dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "geglu",
        [](uintptr_t x, uintptr_t y, int64_t rows, int64_t width, int dtype, int threads) {
            geglu({at<void>(x), at<void>(y), rows, width}, dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "swiglu",
        [](uintptr_t x, uintptr_t y, int64_t rows, int64_t width, int dtype, int threads) {
            swiglu({at<void>(x), at<void>(y), rows, width}, dtype_of(dtype), threads);
        },
        Release());
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
        "rms_norm",
        [](uintptr_t x, uintptr_t weight, uintptr_t y, int64_t rows, int64_t width, double eps,
           int dtype, int threads) {
            rms_norm({at<void>(x), at<float>(weight), nullptr, at<void>(y), rows, width, eps},
                     dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "layer_norm",
        [](uintptr_t x, uintptr_t weight, uintptr_t bias, uintptr_t y, int64_t rows, int64_t width,
           double eps, int dtype, int threads) {
            layer_norm(
                {at<void>(x), at<float>(weight), at<float>(bias), at<void>(y), rows, width, eps},
                dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "group_norm_scale_shift",
        [](uintptr_t x, uintptr_t x2, int64_t pictures, int64_t pixels, int64_t channels,
           int64_t channels2, uintptr_t weight, uintptr_t bias, int64_t groups, double eps,
           uintptr_t scale, uintptr_t shift, int dtype, int threads) {
            group_norm_scale_shift(
                {at<void>(x), at<void>(x2), pictures, pixels, channels, channels2, nullptr},
                {at<float>(weight), at<float>(bias), groups, eps}, at<float>(scale),
                at<float>(shift), dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "group_norm_apply",
        [](uintptr_t x, uintptr_t x2, int64_t pictures, int64_t pixels, int64_t channels,
           int64_t channels2, uintptr_t scale, uintptr_t shift, bool silu, uintptr_t y, int dtype,
           int threads) {
            group_norm_apply({at<void>(x), at<void>(x2), pictures, pixels, channels, channels2,
                              at<float>(scale), at<float>(shift), nullptr, at<void>(y), silu},
                             dtype_of(dtype), threads);
        },
        Release());
    m.def(
        "group_norm_silu",
        [](uintptr_t x, uintptr_t x2, int64_t pictures, int64_t pixels, int64_t channels,
           int64_t channels2, uintptr_t weight, uintptr_t bias, int64_t groups, double eps,
           bool silu, uintptr_t y, int dtype, int threads) {
            group_norm_silu({at<void>(x), at<void>(x2), pictures, pixels, channels, channels2,
                             nullptr, nullptr, nullptr, at<void>(y), silu},
                            {at<float>(weight), at<float>(bias), groups, eps}, dtype_of(dtype),
                            threads);
        },
        Release());
    m.def(
        "linear",
        [](uintptr_t x, uintptr_t x2, int64_t rows, int64_t channels, int64_t channels2,
           uintptr_t weight, int weight_dtype, uintptr_t weight_scale, uintptr_t bias,
           uintptr_t scale, uintptr_t shift, int64_t picture_rows, bool silu, int activation,
           uintptr_t residual, uintptr_t y, int64_t outputs, int dtype, int threads) {
            linear(
                {at<void>(x), at<void>(x2), rows, channels, channels2, at<void>(weight),
                 weight_dtype_of(weight_dtype), at<float>(weight_scale), at<float>(bias),
                 at<float>(scale), at<float>(shift), picture_rows, silu, activation_of(activation),
                 at<void>(residual), at<void>(y), outputs, dtype_of(dtype)},
                threads);
        },
        Release());
    m.def(
        "sampler_step",
        [](uintptr_t x, uintptr_t out, uintptr_t unconditional, uintptr_t coefficients,
           uintptr_t d1, uintptr_t d2, uintptr_t d3, uintptr_t base, uintptr_t noise,
           uintptr_t x_new, uintptr_t d, uintptr_t y, int64_t pictures, int64_t size, int dtype,
           int threads) {
            sampler_step(
                {at<void>(x), at<void>(out), at<void>(unconditional), at<float>(coefficients),
                 at<void>(d1), at<void>(d2), at<void>(d3), at<void>(base), at<void>(noise),
                 at<void>(x_new), at<void>(d), at<void>(y), pictures, size},
                dtype_of(dtype), threads);
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
