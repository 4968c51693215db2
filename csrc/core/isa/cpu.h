// What the CPU *and* the operating system offer: an instruction set whose registers the system does
// not save on a context switch must not be used, whatever CPUID says.
#pragma once

namespace pyengine {

struct CpuFeatures {
    bool avx2 = false;         // AVX2, FMA, F16C; YMM state saved
    bool avx512 = false;       // AVX-512 F, BW, DQ, VL as well; ZMM and mask state saved
    bool avx512_bf16 = false;  // AVX512_BF16 as well
    bool amd = false;
    bool amx_bf16 = false;     // AMX_TILE and AMX_BF16 as well, and Linux lets this process use it
    bool avx_vnni = false;     // AVX2 and AVX_VNNI
    bool avx512_vnni = false;  // AVX-512 as above and AVX512_VNNI
    bool amx_int8 = false;     // AVX-512, AMX_TILE and AMX_INT8, and Linux lets this process use it
};

// The first call asks Linux for AMX's tile registers, which it saves for processes that asked
// alone.
CpuFeatures cpu_features();

}  // namespace pyengine
