#include "parallel.h"

#include <dlfcn.h>

namespace pyengine {

namespace {

// The entry points that compilers call for `#pragma omp parallel`, looked up by name in what is
// already loaded. torch brings a libgomp along, under its plain name or a mangled one, and makes
// its symbols global; taking them from there means that the process has one OpenMP runtime, one
// pool of threads, whichever torch and whichever compiler (gcc, or clang with its own libomp) met
// here.
struct Runtime {
    void (*parallel)(void (*)(void*), void*, unsigned threads, unsigned flags) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;

    Runtime() {
        void* from = RTLD_DEFAULT;
        if (!dlsym(from, "GOMP_parallel")) from = dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL);
        parallel = reinterpret_cast<decltype(parallel)>(dlsym(from, "GOMP_parallel"));
        thread_num = reinterpret_cast<decltype(thread_num)>(dlsym(from, "omp_get_thread_num"));
        num_threads = reinterpret_cast<decltype(num_threads)>(dlsym(from, "omp_get_num_threads"));
        if (!thread_num || !num_threads) parallel = nullptr;
    }
};

const Runtime& runtime() {
    static const Runtime found;
    return found;
}

struct Loop {
    void (*body)(const void*, int64_t, int64_t);
    const void* data;
    int64_t items;
};

void run_share(void* argument) {
    const Loop& loop = *static_cast<const Loop*>(argument);
    const int64_t team = runtime().num_threads(), me = runtime().thread_num();
    const int64_t share = loop.items / team, rest = loop.items % team;
    const int64_t begin = me * share + (me < rest ? me : rest);
    const int64_t end = begin + share + (me < rest);
    if (begin < end) loop.body(loop.data, begin, end);
}

}  // namespace

bool has_openmp() {
    return runtime().parallel != nullptr;
}

void parallel_ranges(int64_t items, int64_t grain, int threads,
                     void (*body)(const void*, int64_t, int64_t), const void* data) {
    if (items <= 0) return;
    const int64_t useful = grain > 0 ? items / grain : items;
    const int64_t team = useful < threads ? useful : threads;
    if (team < 2 || !has_openmp()) return body(data, 0, items);
    Loop loop{body, data, items};
    runtime().parallel(run_share, &loop, static_cast<unsigned>(team), 0);
}

}  // namespace pyengine
