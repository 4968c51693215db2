#include "isa/cpu.h"

#ifdef PYENGINE_X86
#include <cpuid.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace pyengine {

#ifdef PYENGINE_X86

namespace {

// Extended control register 0: which register states the operating system saves. Read by the
// instruction itself, since the intrinsic would need -mxsave for this file.
uint64_t xcr0() {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t{high} << 32 | low;
}

// Whether this process, threads that it starts and processes that it forks may use AMX's tiles. The
// kernel refuses where a thread has a signal stack that is too small for them.
bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

CpuFeatures find() {
    CpuFeatures found;
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(0, &eax, &ebx, &ecx, &edx)) found.amd = ebx == signature_AMD_ebx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
    const bool osxsave = ecx >> 27 & 1, avx = ecx >> 28 & 1;
    const bool fma = ecx >> 12 & 1, f16c = ecx >> 29 & 1;
    if (!osxsave || !avx || !fma || !f16c) return found;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
    const uint64_t saved = xcr0();
    const bool ymm_saved = (saved & 0x06) == 0x06;  // SSE, AVX
    const bool zmm_saved = (saved & 0xe6) == 0xe6;  // and opmask, ZMM_Hi256, Hi16_ZMM
    found.avx2 = ymm_saved && (ebx >> 5 & 1);
    const bool f = ebx >> 16 & 1, dq = ebx >> 17 & 1, bw = ebx >> 30 & 1, vl = ebx >> 31 & 1;
    found.avx512 = found.avx2 && zmm_saved && f && dq && bw && vl;
    found.avx512_vnni = found.avx512 && (ecx >> 11 & 1);
    const bool amx_bf16 = edx >> 22 & 1, amx_tile = edx >> 24 & 1, amx_int8 = edx >> 25 & 1;
    const bool tiles_saved = (saved & 0x60000) == 0x60000;  // XTILECFG, XTILEDATA
    if (!found.avx2 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return found;
    found.avx_vnni = eax >> 4 & 1;
    found.avx512_bf16 = found.avx512 && (eax >> 5 & 1);
    const bool tiles = found.avx512 && amx_tile && tiles_saved && may_use_tiles();
    found.amx_bf16 = found.avx512_bf16 && tiles && amx_bf16;
    found.amx_int8 = tiles && amx_int8;
    return found;
}

}  // namespace

CpuFeatures cpu_features() {
    static const CpuFeatures found = find();
    return found;
}

#else

CpuFeatures cpu_features() {
    return {};
}

#endif

}  // namespace pyengine
