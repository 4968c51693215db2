#include "runtime.h"

#include <cuda_runtime_api.h>

namespace pyengine::cuda {

namespace {

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    std::string why = cudaGetErrorString(status);
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
        why = "this machine has no NVIDIA driver";
    throw CudaError(std::string(what) + ": " + why + " (" + cudaGetErrorName(status) + ")");
}

}  // namespace

void check_launch(const char* op) {
    check(cudaGetLastError(), op);
}

int device_count() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "device_count");
    return count;
}

int runtime_version() {
    int version = 0;
    check(cudaRuntimeGetVersion(&version), "runtime_version");
    return version;
}

int driver_version() {
    int version = 0;
    check(cudaDriverGetVersion(&version), "driver_version");
    return version;
}

}  // namespace pyengine::cuda
