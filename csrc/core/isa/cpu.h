// What the CPU *and* the operating system offer: an instruction set whose registers the system does
// not save on a context switch must not be used, whatever CPUID says.
#pragma once

namespace pyengine {

struct CpuFeatures {
    bool avx2 = false;    // AVX2, FMA, F16C; YMM state saved
    bool avx512 = false;  // AVX-512 F, BW, DQ, VL as well; ZMM and mask state saved
};

CpuFeatures cpu_features();

}  // namespace pyengine
