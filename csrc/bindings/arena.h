#pragma once

#include <pybind11/pybind11.h>

// Adds Arena to the module.
void bind_arena(pybind11::module_& m);
