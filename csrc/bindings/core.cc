// pyengine._core: the CPU kernels for Python. A list of functions, no logic.
//
// A kernel takes the struct of its C++ function (fields.h), whose header says what each field is.
// Tensors come as the address of their first element, 0 for one that is absent; all are contiguous
// unless there are steps, and the caller keeps them alive. dtype: 0 float32, 1 bfloat16, 2 float16;
// of weights also 3 int8, 4 bfloat16 in pairs. Sizes count elements. The GIL is released around
// every kernel; std::invalid_argument becomes ValueError, std::bad_alloc
// pyengine.errors.OutOfMemoryError.
#include <pybind11/pybind11.h>

#include "activation/geglu.h"
#include "arena.h"
#include "arguments.h"
#include "attention/attention.h"
#include "conv/algorithm.h"
#include "conv/conv2d.h"
#include "conv/direct_int8.h"
#include "fields.h"
#include "gemm/int8_products.h"
#include "gemm/linear_int8.h"
#include "instruction_sets.h"
#include "isa/peak.h"
#include "memory/pack_weight.h"
#include "moves.h"
#include "norm/group_norm_silu.h"
#include "norm/layer_norm.h"
#include "parallel.h"
#include "sampler/sampler_step.h"
#include "shared_args.h"
#include "table.h"
#include "tokens.h"

namespace py = pybind11;

namespace pyengine {

static bool read(PyObject* value, Activation& to) {
    return read_code(value, kActivations, "activation", to);
}

static bool read(PyObject* value, InputActivation& to) {
    return read_code(value, kInputActivations, "activation", to);
}

}  // namespace pyengine

using namespace pyengine;

namespace {

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

void bind_convolutions(py::module_& m) {
#define FIELD(name) field<&Conv2dArgs::name>(#name)
    ArgsClass<Conv2dArgs>::bind(
        m, "Conv2dArgs", "A convolution: csrc/core/conv/conv2d.h.",
        {FIELD(x),
         FIELD(x2),
         FIELD(weight),
         FIELD(bias),
         FIELD(scale),
         FIELD(shift),
         FIELD(channel_add),
         FIELD(slopes),
         FIELD(residual),
         FIELD(y),
         FIELD(pictures),
         FIELD(height),
         FIELD(width),
         FIELD(channels),
         FIELD(channels2),
         FIELD(height_out),
         FIELD(width_out),
         FIELD(channels_out),
         FIELD(kernel_height),
         FIELD(kernel_width),
         FIELD(stride),
         FIELD(top),
         FIELD(left),
         FIELD(activation),
         FIELD(upsample),
         FIELD(transposed),
         FIELD(dtype),
         field<&Conv2dArgs::weight_dtype, read_weight_dtype>("weight_dtype")});
#undef FIELD
    m.def(
        "conv2d",
        [](Given<Conv2dArgs> args, int threads, const std::string& algorithm) {
            conv2d(*args, algorithm_of(algorithm), threads);
        },
        py::arg("args"), py::arg("threads"), py::arg("algorithm") = "", Release(),
        "Convolves; algorithm: one of csrc/core/conv/algorithm.h, \"\" for its choice.");
    m.def(
        "conv2d_int8",
        [](Given<Conv2dArgs> args, uintptr_t weight_scale, int threads) {
            conv2d_int8({*args, at<float>(weight_scale)}, threads);
        },
        py::arg("args"), py::arg("weight_scale"), py::arg("threads"), Release(),
        "Convolves in int8: csrc/core/conv/direct_int8.h.");

#define FIELD(name) field<&ConvShape::name>(#name)
    ArgsClass<ConvShape>::bind(
        m, "ConvShape", "One picture through one layer: csrc/core/conv/algorithm.h.",
        {FIELD(height_out), FIELD(width_out), FIELD(channels), FIELD(channels_out),
         FIELD(kernel_height), FIELD(kernel_width), FIELD(stride), FIELD(upsample),
         field<&ConvShape::weight_dtype, read_weight_dtype>("weight_dtype"), FIELD(dtype)});
#undef FIELD
    m.def(
        "conv2d_algorithm",
        [](Given<ConvShape> shape) {
            const bool tiles = table().conv2d_bf16 != nullptr;
            return kConvAlgorithms[static_cast<int>(choose_algorithm(*shape, tiles))];
        },
        py::arg("shape"), "The algorithm that conv2d takes for a shape.");
}

void bind_products(py::module_& m) {
#define FIELD(name) field<&LinearArgs::name>(#name)
    ArgsClass<LinearArgs>::bind(
        m, "LinearArgs", "A matrix product and what surrounds it: csrc/core/gemm/linear.h.",
        {FIELD(x),
         FIELD(x2),
         FIELD(rows),
         FIELD(channels),
         FIELD(channels2),
         FIELD(weight),
         field<&LinearArgs::weight_dtype, read_weight_dtype>("weight_dtype"),
         FIELD(weight_scale),
         FIELD(bias),
         FIELD(scale),
         FIELD(shift),
         FIELD(picture_rows),
         FIELD(silu),
         FIELD(addend),
         FIELD(activation),
         FIELD(gate),
         FIELD(residual),
         FIELD(y),
         FIELD(outputs),
         FIELD(dtype)});
#undef FIELD
    bind_kernel<LinearArgs, linear>(m, "linear", "Multiplies by packed weights.");
    bind_kernel<LinearArgs, linear_int8>(m, "linear_int8",
                                         "Multiplies in int8: csrc/core/gemm/linear_int8.h.");
    m.def("int8_product", [] { return std::string(int8_product().name); });
    m.def("int8_products", [] {
        py::dict products;  // name -> why it does not run here, or ""
        for (const auto& [name, unavailable] : int8_products())
            products[name.c_str()] = unavailable;
        return products;
    });
    m.def("set_int8_product", &set_int8_product, py::arg("name"));

#define FIELD(name) field<&PackWeightArgs::name>(#name)
    ArgsClass<PackWeightArgs>::bind(
        m, "PackWeightArgs", "A weight and its panels: csrc/core/memory/pack_weight.h.",
        {FIELD(weight), FIELD(packed), FIELD(channels_out), FIELD(channels), FIELD(taps)});
#undef FIELD
    m.def(
        "pack_weight",
        [](Given<PackWeightArgs> args, int item_size, int threads) {
            pack_weight(*args, item_size, threads);
        },
        py::arg("args"), py::arg("item_size"), py::arg("threads"), Release(),
        "Copies a weight, of elements of item_size bytes, into panels of 16 output channels.");
}

void bind_norms(py::module_& m) {
#define FIELD(name) field<&LayerNormArgs::name>(#name)
    ArgsClass<LayerNormArgs>::bind(
        m, "LayerNormArgs", "Rows: csrc/core/norm/layer_norm.h.",
        {FIELD(x), FIELD(weight), FIELD(bias), FIELD(y), FIELD(rows), FIELD(width), FIELD(eps)});
#undef FIELD
    bind_kernel<LayerNormArgs, layer_norm>(m, "layer_norm", "Normalises each row.");
    bind_kernel<LayerNormArgs, rms_norm>(m, "rms_norm",
                                         "Divides each row by its root mean square.");

#define FIELD(name) field<&GroupNormInput::name>(#name)
    ArgsClass<GroupNormInput>::bind(
        m, "GroupNormInput", "Pictures: csrc/core/norm/group_norm_silu.h.",
        {FIELD(x), FIELD(x2), FIELD(pictures), FIELD(pixels), FIELD(channels), FIELD(channels2)});
#undef FIELD
#define FIELD(name) field<&GroupNormWeights::name>(#name)
    ArgsClass<GroupNormWeights>::bind(m, "GroupNormWeights",
                                      "A norm: csrc/core/norm/group_norm_silu.h.",
                                      {FIELD(weight), FIELD(bias), FIELD(groups), FIELD(eps)});
#undef FIELD
    m.def(
        "group_norm_scale_shift",
        [](Given<GroupNormInput> input, Given<GroupNormWeights> weights, uintptr_t scale,
           uintptr_t shift, int dtype, int threads) {
            group_norm_scale_shift(*input, *weights, at<float>(scale), at<float>(shift),
                                   dtype_of(dtype), threads);
        },
        py::arg("input"), py::arg("weights"), py::arg("scale"), py::arg("shift"), py::arg("dtype"),
        py::arg("threads"), Release(), "The norm as a scale and a shift.");
    m.def(
        "group_norm_apply",
        [](Given<GroupNormInput> input, uintptr_t scale, uintptr_t shift, bool silu, uintptr_t y,
           int dtype, int threads) {
            group_norm_apply(*input, at<float>(scale), at<float>(shift), silu, at<void>(y),
                             dtype_of(dtype), threads);
        },
        py::arg("input"), py::arg("scale"), py::arg("shift"), py::arg("silu"), py::arg("y"),
        py::arg("dtype"), py::arg("threads"), Release(), "x * scale + shift, then SiLU or not.");
    m.def(
        "group_norm_silu",
        [](Given<GroupNormInput> input, Given<GroupNormWeights> weights, bool silu, uintptr_t y,
           int dtype, int threads) {
            group_norm_silu(*input, *weights, silu, at<void>(y), dtype_of(dtype), threads);
        },
        py::arg("input"), py::arg("weights"), py::arg("silu"), py::arg("y"), py::arg("dtype"),
        py::arg("threads"), Release(), "The norm, then SiLU or not.");
}

void bind_rest(py::module_& m) {
#define FIELD(name) field<&AttentionArgs::name>(#name)
    ArgsClass<AttentionArgs>::bind(
        m, "AttentionArgs", "Packed heads: csrc/core/attention/attention.h.",
        {FIELD(q),     FIELD(k),         FIELD(v),           FIELD(y),         FIELD(q_picture),
         FIELD(q_row), FIELD(k_picture), FIELD(k_row),       FIELD(v_picture), FIELD(v_row),
         FIELD(mask),  FIELD(mask_step), FIELD(pictures),    FIELD(heads),     FIELD(queries),
         FIELD(keys),  FIELD(width),     FIELD(value_width), FIELD(scale),     FIELD(causal)});
#undef FIELD
    bind_kernel<AttentionArgs, attention>(m, "attention", "Attends, head by head.");

    bind_gated(m);
    bind_kernel<GegluArgs, geglu>(m, "geglu", "value * GELU(gate).");
    bind_kernel<GegluArgs, swiglu>(m, "swiglu", "value * SiLU(gate).");
    bind_sampler(m);
    bind_kernel<SamplerStepArgs, sampler_step>(m, "sampler_step", "Guidance and one update.");
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "CPU kernels of pyengine; see csrc/bindings/core.cc. Use pyengine.ops instead.";
    table();  // a PYENGINE_ISA that cannot be had fails here, not in the first kernel
    survive_forks();
    py::register_local_exception_translator(&translate_out_of_memory);

    // Counted up with every change of a signature, a field or SAMPLER_COLUMNS, as in
    // pyengine/ops/_core.py.
    m.attr("INTERFACE") = 8;
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
    m.def(
        "multiply_adds",
        [](int64_t turns, int threads) {
            const Peak peak = multiply_adds(turns, threads);
            return std::pair(peak.operations, peak.last);
        },
        py::arg("turns"), py::arg("threads"), Release());
    m.def("openmp_lost_its_threads", &openmp_lost_its_threads);
    bind_arena(m);
    bind_tokens(m);
    bind_moves(m);
    bind_convolutions(m);
    bind_products(m);
    bind_norms(m);
    bind_rest(m);
}
