// pyengine._cuda: the CUDA kernels for Python. A list of functions, no logic.
//
// Arguments are those of pyengine._core's functions of the same names (classes of this module's
// own), with addresses on the current device and a stream instead of a number of threads: the
// stream's handle, 0 for the default one (torch.cuda.current_stream().cuda_stream). Calls return
// once the kernel is queued.
// The GIL is released around every launch; std::invalid_argument becomes ValueError, CudaError
// itself.
#include <pybind11/pybind11.h>

#include "launchers.h"
#include "runtime.h"
#include "shared_args.h"

namespace py = pybind11;
using namespace pyengine;

namespace {

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

    bind_gated(m);
    m.def(
        "geglu",
        [](Given<GegluArgs> args, int dtype, uintptr_t stream) {
            cuda::geglu(*args, dtype_of(dtype), stream_of(stream));
        },
        py::arg("args"), py::arg("dtype"), py::arg("stream"), Release(), "value * GELU(gate).");
    bind_sampler(m);
    m.def(
        "sampler_step",
        [](Given<SamplerStepArgs> args, int dtype, uintptr_t stream) {
            cuda::sampler_step(*args, dtype_of(dtype), stream_of(stream));
        },
        py::arg("args"), py::arg("dtype"), py::arg("stream"), Release(),
        "Guidance and one update.");
}
