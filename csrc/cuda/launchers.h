// The CUDA kernels' launchers. Arguments are those of the CPU functions in csrc/core, with pointers
// to memory of the current device; a launch is queued on the stream and not waited for. The table
// of backends calls them where Triton, whose kernels stand before them, is not installed.
//
// Every launcher throws std::invalid_argument for sizes it cannot take and CudaError where the
// launch fails. An element's bits depend neither on the batch nor on the pointers' alignment.
#pragma once

#include <driver_types.h>

#include "activation/geglu.h"
#include "sampler/sampler_step.h"

namespace pyengine::cuda {

void geglu(const GegluArgs& args, DType dtype, cudaStream_t stream);
void sampler_step(const SamplerStepArgs& args, DType dtype, cudaStream_t stream);

}  // namespace pyengine::cuda
