// pyengine._cuda: the CUDA kernels for Python. A list of functions, no logic.
//
// Arguments are those of pyengine._core's functions of the same names, with addresses on the
// current device and a stream instead of a number of threads: the stream's handle, 0 for the
// default one (torch.cuda.current_stream().cuda_stream). Calls return once the kernel is queued.
// The GIL is released around every launch; std::invalid_argument becomes ValueError, CudaError
// itself.
#include <pybind11/pybind11.h>

#include "launchers.h"
#include "runtime.h"

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

cudaStream_t stream_of(uintptr_t handle) {
    return reinterpret_cast<cudaStream_t>(handle);
}

using Release = py::call_guard<py::gil_scoped_release>;

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of pyengine; see csrc/bindings/cuda.cc.";
    py::register_exception<cuda::CudaError>(m, "CudaError", PyExc_RuntimeError);

    m.attr("ARCHITECTURES") = PYENGINE_CUDA_ARCHITECTURES;  // in CMake's names
    m.attr("SAMPLER_COLUMNS") = kSamplerColumns;
    m.def("device_count", &cuda::device_count);
    m.def("runtime_version", &cuda::runtime_version);  // 13000 for 13.0
    m.def("driver_version", &cuda::driver_version);    // likewise; 0 without a driver

    m.def(
        "geglu",
        [](uintptr_t x, uintptr_t y, int64_t rows, int64_t width, int dtype, uintptr_t stream) {
            cuda::geglu({at<void>(x), at<void>(y), rows, width}, dtype_of(dtype),
                        stream_of(stream));
        },
        Release());
    m.def(
        "sampler_step",
        [](uintptr_t x, uintptr_t out, uintptr_t unconditional, uintptr_t coefficients,
           uintptr_t d1, uintptr_t d2, uintptr_t d3, uintptr_t base, uintptr_t noise,
           uintptr_t variance, uintptr_t x_new, uintptr_t d, uintptr_t y, int64_t pictures,
           int64_t size, int dtype, uintptr_t stream) {
            cuda::sampler_step(
                {at<void>(x), at<void>(out), at<void>(unconditional), at<float>(coefficients),
                 at<void>(d1), at<void>(d2), at<void>(d3), at<void>(base), at<void>(noise),
                 at<void>(variance), at<void>(x_new), at<void>(d), at<void>(y), pictures, size},
                dtype_of(dtype), stream_of(stream));
        },
        Release());
}
