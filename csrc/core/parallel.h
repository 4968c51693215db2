// Loops over independent items on several threads. The only place, with parallel.cc, that knows
// threads.
#pragma once

#include <stdint.h>

namespace pyengine {

// Calls body(data, begin, end) on ranges that cover [0, items), on at most `threads` threads, the
// calling one included, and on one where there are fewer than 2 * grain items.
//
// Ranges are taken by whichever thread is free, so a result must not depend on where they begin,
// nor on who computes them. body must not throw; parallel loops within it run on its own thread.
// Any number of threads may call this at once: they share the pool's threads, and each gets on
// alone where none is free. After a fork the child starts threads of its own when it needs them.
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

// In how many shares, of `grain` items or more, `threads` threads do a loop whose every share needs
// memory of its own, which the caller takes from scratch() at once: body must not throw.
inline int64_t shares_of(int64_t items, int64_t grain, int threads) {
    const int64_t most = threads > 1 ? threads : 1, fits = items / grain;
    return fits < 1 ? 1 : fits < most ? fits : most;
}

// Calls body(share, begin, end) on the ranges of that many shares, which cover [0, items).
template <class Body>
void parallel_shares(int64_t items, int64_t shares, int threads, const Body& body) {
    parallel_for(shares, 1, threads, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i)
            body(i, items * i / shares, items * (i + 1) / shares);
    });
}

// To be called once, when the library is loaded: from then on a process may fork at any time.
void survive_forks();

// The pool's threads that exist now; callers of parallel_ranges are not among them.
int pool_threads();

// Whether the OpenMP runtime in this process (torch's) lost its threads in a fork, so that its next
// parallel region would wait for them for ever. True only for a libgomp from before GCC 9, which
// cannot be asked to end its threads before the fork, as newer ones are.
bool openmp_lost_its_threads();

}  // namespace pyengine
