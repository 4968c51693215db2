#pragma once

#include <pybind11/pybind11.h>

// Adds the kernels of token models to the module.
void bind_tokens(pybind11::module_& m);
