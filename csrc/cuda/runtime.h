// What the CUDA runtime says, as exceptions and plain values.
#pragma once

#include <stdexcept>
#include <string>

namespace pyengine::cuda {

class CudaError : public std::runtime_error {
 public:
    using std::runtime_error::runtime_error;
};

// Throws CudaError, naming the op, if the last launch of this thread failed, and clears the error.
void check_launch(const char* op);

// Number of GPUs. Throws CudaError where there is no driver or no GPU.
int device_count();

// Version of the CUDA runtime that is linked in, 13000 for 13.0.
int runtime_version();

// Version that the driver supports, 0 where there is none.
int driver_version();

}  // namespace pyengine::cuda
