// The classes of arguments that the CPU's and the GPU's modules share.
#pragma once

#include "activation/geglu.h"
#include "fields.h"
#include "sampler/sampler_step.h"

namespace pyengine {

inline void bind_gated(pybind11::module_& m) {
#define FIELD(name) field<&GegluArgs::name>(#name)
    ArgsClass<GegluArgs>::bind(m, "GegluArgs",
                               "Rows of value and gate: csrc/core/activation/geglu.h.",
                               {FIELD(x), FIELD(y), FIELD(rows), FIELD(width)});
#undef FIELD
}

inline void bind_sampler(pybind11::module_& m) {
#define FIELD(name) field<&SamplerStepArgs::name>(#name)
    ArgsClass<SamplerStepArgs>::bind(
        m, "SamplerStepArgs", "A step of a sampler: csrc/core/sampler/sampler_step.h.",
        {FIELD(x), FIELD(out), FIELD(unconditional), FIELD(coefficients), FIELD(d1), FIELD(d2),
         FIELD(d3), FIELD(base), FIELD(noise), FIELD(variance), FIELD(x_new), FIELD(d), FIELD(y),
         FIELD(pictures), FIELD(size)});
#undef FIELD
}

}  // namespace pyengine
