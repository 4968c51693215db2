// Copies and means between the kernels, for Python; see core.cc.
#pragma once

#include <pybind11/pybind11.h>

namespace pyengine {

void bind_moves(pybind11::module_& m);

}  // namespace pyengine
