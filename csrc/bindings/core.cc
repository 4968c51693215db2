// pyengine._core: the CPU kernels for Python. A list of functions, no logic.
//
// Tensors come as the address of their first element, 0 for one that is absent; all are contiguous,
// and the caller keeps them alive. dtype: 0 float32, 1 bfloat16, 2 float16. Sizes count elements.
// The GIL is released around every kernel; std::invalid_argument becomes ValueError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "activation/geglu.h"
#include "instruction_sets.h"
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

using Release = py::call_guard<py::gil_scoped_release>;

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "CPU kernels of pyengine; see csrc/bindings/core.cc. Use pyengine.ops instead.";
    table();  // a PYENGINE_ISA that cannot be had fails here, not in the first kernel

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
    m.def("has_openmp", &has_openmp);

    m.def(
        "geglu",
        [](uintptr_t x, uintptr_t y, int64_t rows, int64_t width, int dtype, int threads) {
            geglu({at<void>(x), at<void>(y), rows, width}, dtype_of(dtype), threads);
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
