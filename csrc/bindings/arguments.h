// What functions of pyengine._core make of their arguments: see core.cc.
#pragma once

#include <pybind11/pybind11.h>
#include <stdint.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "dtype.h"
#include "gemm/pairs.h"

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

// Of weights of convolutions: activations' dtypes, and 4 for bfloat16 in pairs.
inline DType filter_dtype_of(int code) {
    return code == static_cast<int>(kBFloat16Pairs) ? kBFloat16Pairs : dtype_of(code);
}

// Of matrices: int8 as well.
inline DType weight_dtype_of(int code) {
    return code == static_cast<int>(DType::int8) ? DType::int8 : filter_dtype_of(code);
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

}  // namespace pyengine
