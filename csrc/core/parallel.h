// Loops over independent items on several threads. The only place, with parallel.cc, that knows
// OpenMP.
#pragma once

#include <stdint.h>

namespace pyengine {

// Calls body(data, begin, end) on consecutive ranges that cover [0, items), on at most `threads`
// threads, and on one where there are fewer than 2 * grain items. body must not throw.
void parallel_ranges(int64_t items, int64_t grain, int threads,
                     void (*body)(const void* data, int64_t begin, int64_t end), const void* data);

// The same for a callable of (begin, end).
template <class Body>
void parallel_for(int64_t items, int64_t grain, int threads, const Body& body) {
    parallel_ranges(
        items, grain, threads,
        [](const void* data, int64_t begin, int64_t end) {
            (*static_cast<const Body*>(data))(begin, end);
        },
        &body);
}

// Whether an OpenMP runtime was found (without one, loops run on the calling thread).
bool has_openmp();

}  // namespace pyengine
