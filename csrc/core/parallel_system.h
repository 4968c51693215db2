// What parallel.cc asks of the system and of the processor.
#pragma once

#include <sched.h>
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <thread>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __SSE__
#include <immintrin.h>
#endif

namespace pyengine {

inline void pause() {
#if defined(__SSE__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

#ifdef __linux__
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

// Sleeps while the word has this value; may return at any time. Whether somebody woke it.
inline bool sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
    return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0) == 0;
}

// Returns how many it woke.
inline int wake(std::atomic<uint32_t>& word, int most) {
    return static_cast<int>(
        std::max(0L, syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, most, nullptr, nullptr, 0)));
}

inline int cores() {
    cpu_set_t set;  // of up to 1024 cores; on a larger machine the call fails
    if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

inline int this_core() {
    return sched_getcpu();
}
#else
inline bool sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
    word.wait(value);
    return false;
}

inline int wake(std::atomic<uint32_t>& word, int) {
    word.notify_all();
    return 0;
}

inline int cores() {
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

inline int this_core() {
    return -1;
}
#endif

// How the processor rounds, and whether it flushes denormal numbers to zero: a helper computes as
// its caller would, or the bits would depend on who took a range.
inline uint64_t float_control() {
#if defined(__SSE__)
    return _mm_getcsr() & ~0x3fu;  // without the flags of what has happened
#elif defined(__aarch64__)
    uint64_t control;
    asm volatile("mrs %0, fpcr" : "=r"(control));
    return control;
#else
    return 0;
#endif
}

inline void set_float_control([[maybe_unused]] uint64_t control) {
#if defined(__SSE__)
    _mm_setcsr(static_cast<unsigned>(control));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(control));
#endif
}

}  // namespace pyengine
