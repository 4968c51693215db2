// pyengine._core: the CPU kernels for Python. A list of functions, no logic.
//
// Tensors come as the address of their first element, 0 for one that is absent; all are contiguous,
// and the caller keeps them alive. dtype: 0 float32, 1 bfloat16, 2 float16. Sizes count elements.
// The GIL is released around every kernel; std::invalid_argument becomes ValueError, std::bad_alloc
// pyengine.errors.OutOfMemoryError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "activation/geglu.h"
#include "arena.h"
#include "arguments.h"
#include "attention/attention.h"
#include "conv/algorithm.h"
#include "conv/conv2d.h"
#include "conv/direct_int8.h"
#include "gemm/int8_products.h"
#include "gemm/linear_int8.h"
#include "instruction_sets.h"
#include "memory/pack_weight.h"
#include "moves.h"
#include "norm/group_norm_silu.h"
#include "norm/layer_norm.h"
#include "parallel.h"
#include "sampler/sampler_step.h"
#include "table.h"
#include "tokens.h"

namespace py = pybind11;
using namespace pyengine;

namespace {

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

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "CPU kernels of pyengine; see csrc/bindings/core.cc. Use pyengine.ops instead.";
    table();  // a PYENGINE_ISA that cannot be had fails here, not in the first kernel
    survive_forks();
    py::register_local_exception_translator(&translate_out_of_memory);

    // Counted up with every change of a signature or of SAMPLER_COLUMNS, as in
    // pyengine/ops/_core.py.
    m.attr("INTERFACE") = 6;
    m.attr("SANITIZERS") = PYENGINE_SANITIZE;
    m.attr("SAMPLER_COLUMNS") = kSamplerColumns;
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
    bind_tokens(m);
    bind_moves(m);
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
           uintptr_t shift, uintptr_t channel_add, uintptr_t slopes, uintptr_t residual,
           uintptr_t y, int64_t pictures, int64_t height, int64_t width, int64_t channels,
           int64_t channels2, int64_t height_out, int64_t width_out, int64_t channels_out,
           int64_t kernel_height, int64_t kernel_width, int64_t stride, int64_t top, int64_t left,
           int activation, bool upsample, bool transposed, int dtype, int weight_dtype,
           const std::string& algorithm, int threads) {
            conv2d({.x = at<void>(x),
                    .x2 = at<void>(x2),
                    .weight = at<void>(weight),
                    .bias = at<float>(bias),
                    .scale = at<float>(scale),
                    .shift = at<float>(shift),
                    .channel_add = at<void>(channel_add),
                    .slopes = at<float>(slopes),
                    .residual = at<void>(residual),
                    .y = at<void>(y),
                    .pictures = pictures,
                    .height = height,
                    .width = width,
                    .channels = channels,
                    .channels2 = channels2,
                    .height_out = height_out,
                    .width_out = width_out,
                    .channels_out = channels_out,
                    .kernel_height = kernel_height,
                    .kernel_width = kernel_width,
                    .stride = stride,
                    .top = top,
                    .left = left,
                    .activation = static_cast<InputActivation>(activation),
                    .upsample = upsample,
                    .transposed = transposed,
                    .dtype = dtype_of(dtype),
                    .weight_dtype = filter_dtype_of(weight_dtype)},
                   algorithm_of(algorithm), threads);
        },
        Release());
    m.def(
        "conv2d_int8",
        [](uintptr_t x, uintptr_t x2, uintptr_t weight, uintptr_t weight_scale, uintptr_t bias,
           uintptr_t scale, uintptr_t shift, uintptr_t channel_add, uintptr_t residual, uintptr_t y,
           int64_t pictures, int64_t height, int64_t width, int64_t channels, int64_t channels2,
           int64_t height_out, int64_t width_out, int64_t channels_out, int64_t kernel_height,
           int64_t kernel_width, int64_t stride, int64_t top, int64_t left, int activation,
           bool upsample, int dtype, int threads) {
            conv2d_int8({{.x = at<void>(x),
                          .x2 = at<void>(x2),
                          .weight = at<void>(weight),
                          .bias = at<float>(bias),
                          .scale = at<float>(scale),
                          .shift = at<float>(shift),
                          .channel_add = at<void>(channel_add),
                          .slopes = nullptr,
                          .residual = at<void>(residual),
                          .y = at<void>(y),
                          .pictures = pictures,
                          .height = height,
                          .width = width,
                          .channels = channels,
                          .channels2 = channels2,
                          .height_out = height_out,
                          .width_out = width_out,
                          .channels_out = channels_out,
                          .kernel_height = kernel_height,
                          .kernel_width = kernel_width,
                          .stride = stride,
                          .top = top,
                          .left = left,
                          .activation = static_cast<InputActivation>(activation),
                          .upsample = upsample,
                          .transposed = false,
                          .dtype = dtype_of(dtype),
                          .weight_dtype = DType::int8},
                         at<float>(weight_scale)},
                        threads);
        },
        Release());
    m.def("conv2d_algorithm", [](int64_t height_out, int64_t width_out, int64_t channels,
                                 int64_t channels_out, int64_t kernel_height, int64_t kernel_width,
                                 int64_t stride, bool upsample, int weight_dtype, int dtype) {
        const ConvShape shape{height_out,     width_out,     channels,
                              channels_out,   kernel_height, kernel_width,
                              stride,         upsample,      filter_dtype_of(weight_dtype),
                              dtype_of(dtype)};
        return kConvAlgorithms[static_cast<int>(choose_algorithm(shape, table().conv2d_bf16))];
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
    const auto bind_linear = [&m](const char* name, void (*run)(const LinearArgs&, int)) {
        m.def(
            name,
            [run](uintptr_t x, uintptr_t x2, int64_t rows, int64_t channels, int64_t channels2,
                  uintptr_t weight, int weight_dtype, uintptr_t weight_scale, uintptr_t bias,
                  uintptr_t scale, uintptr_t shift, int64_t picture_rows, bool silu,
                  uintptr_t addend, int activation, uintptr_t gate, uintptr_t residual, uintptr_t y,
                  int64_t outputs, int dtype, int threads) {
                run({.x = at<void>(x),
                     .x2 = at<void>(x2),
                     .rows = rows,
                     .channels = channels,
                     .channels2 = channels2,
                     .weight = at<void>(weight),
                     .weight_dtype = weight_dtype_of(weight_dtype),
                     .weight_scale = at<float>(weight_scale),
                     .bias = at<float>(bias),
                     .scale = at<float>(scale),
                     .shift = at<float>(shift),
                     .picture_rows = picture_rows,
                     .silu = silu,
                     .addend = at<void>(addend),
                     .activation = activation_of(activation),
                     .gate = at<float>(gate),
                     .residual = at<void>(residual),
                     .y = at<void>(y),
                     .outputs = outputs,
                     .dtype = dtype_of(dtype)},
                    threads);
            },
            Release());
    };
    bind_linear("linear", linear);
    bind_linear("linear_int8", linear_int8);
    m.def("int8_product", [] { return std::string(int8_product().name); });
    m.def("int8_products", [] {
        py::dict products;  // name -> why it does not run here, or ""
        for (const auto& [name, unavailable] : int8_products())
            products[name.c_str()] = unavailable;
        return products;
    });
    m.def("set_int8_product", &set_int8_product, py::arg("name"));
    m.def(
        "sampler_step",
        [](uintptr_t x, uintptr_t out, uintptr_t unconditional, uintptr_t coefficients,
           uintptr_t d1, uintptr_t d2, uintptr_t d3, uintptr_t base, uintptr_t noise,
           uintptr_t variance, uintptr_t x_new, uintptr_t d, uintptr_t y, int64_t pictures,
           int64_t size, int dtype, int threads) {
            sampler_step({.x = at<void>(x),
                          .out = at<void>(out),
                          .unconditional = at<void>(unconditional),
                          .coefficients = at<float>(coefficients),
                          .d1 = at<void>(d1),
                          .d2 = at<void>(d2),
                          .d3 = at<void>(d3),
                          .base = at<void>(base),
                          .noise = at<void>(noise),
                          .variance = at<void>(variance),
                          .x_new = at<void>(x_new),
                          .d = at<void>(d),
                          .y = at<void>(y),
                          .pictures = pictures,
                          .size = size},
                         dtype_of(dtype), threads);
        },
        Release());
}
