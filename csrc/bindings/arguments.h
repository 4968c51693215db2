// What functions of pyengine._core make of their arguments: see core.cc.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "dtype.h"
#include "fields.h"

namespace pyengine {

template <class T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

inline DType dtype_of(int code) {
    if (code < 0 || code >= kDTypes)
        throw std::invalid_argument("no dtype " + std::to_string(code));
    return static_cast<DType>(code);
}

// Without the GIL while it lives. A thread that wants it back after the interpreter has begun to
// end is unwound by Python before 3.14, which in a destructor ends the process with std::terminate,
// as pybind11::gil_scoped_release does; here it waits for the end of the process, as in later
// versions.
class WithoutGil {
 public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) pause();
        }
    }
    WithoutGil(const WithoutGil&) = delete;
    WithoutGil& operator=(const WithoutGil&) = delete;

 private:
    PyThreadState* state_;
};

using Release = pybind11::call_guard<WithoutGil>;

// A kernel of its struct, of a dtype where the struct names none, and of a number of threads.
template <class Args, auto Kernel>
void bind_kernel(pybind11::module_& m, const char* name, const char* summary) {
    namespace py = pybind11;
    if constexpr (std::is_invocable_v<decltype(Kernel), const Args&, int>)
        m.def(
            name, [](Given<Args> args, int threads) { return Kernel(*args, threads); },
            py::arg("args"), py::arg("threads"), Release(), summary);
    else
        m.def(
            name,
            [](Given<Args> args, int dtype, int threads) {
                return Kernel(*args, dtype_of(dtype), threads);
            },
            py::arg("args"), py::arg("dtype"), py::arg("threads"), Release(), summary);
}

}  // namespace pyengine
