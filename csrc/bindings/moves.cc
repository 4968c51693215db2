#include "moves.h"

#include "arguments.h"
#include "fields.h"
#include "memory/moves.h"

namespace pyengine {

void bind_moves(pybind11::module_& m) {
    namespace py = pybind11;
#define FIELD(name) field<&JoinArgs::name>(#name)
    ArgsClass<JoinArgs>::bind(
        m, "JoinArgs", "Rows of two tensors: csrc/core/memory/moves.h.",
        {FIELD(first), FIELD(second), FIELD(y), FIELD(pictures), FIELD(first_rows),
         FIELD(second_rows), FIELD(bytes), FIELD(first_picture), FIELD(first_row),
         FIELD(second_picture), FIELD(second_row)});
#undef FIELD
    bind_kernel<JoinArgs, join_rows>(m, "join_rows", "Rows behind one another, per picture.");

#define FIELD(name) field<&ResizeArgs::name>(#name)
    ArgsClass<ResizeArgs>::bind(m, "ResizeArgs", "Pictures: csrc/core/memory/moves.h.",
                                {FIELD(x), FIELD(y), FIELD(pictures), FIELD(height), FIELD(width),
                                 FIELD(channels), FIELD(height_out), FIELD(width_out)});
#undef FIELD
    bind_kernel<ResizeArgs, halve>(m, "halve", "The mean of every 2x2 pixels of float32.");
    m.def(
        "enlarge",
        [](Given<ResizeArgs> args, int64_t bytes, int threads) { enlarge(*args, bytes, threads); },
        py::arg("args"), py::arg("bytes"), py::arg("threads"), Release(),
        "Each pixel from the one that it falls into; bytes: of an element.");

#define FIELD(name) field<&ModulateArgs::name>(#name)
    ArgsClass<ModulateArgs>::bind(m, "ModulateArgs", "A norm and a time: csrc/core/memory/moves.h.",
                                  {FIELD(scale), FIELD(shift), FIELD(by), FIELD(scale_out),
                                   FIELD(shift_out), FIELD(pictures), FIELD(channels)});
#undef FIELD
    m.def(
        "modulate", [](Given<ModulateArgs> args) { modulate(*args); }, py::arg("args"), Release(),
        "A norm's scale and shift, scaled and shifted.");
    m.def(
        "divide",
        [](uintptr_t x, double by, int64_t count, int threads) {
            divide(at<float>(x), static_cast<float>(by), count, threads);
        },
        py::arg("x"), py::arg("by"), py::arg("count"), py::arg("threads"), Release(),
        "x /= by, count elements of float32.");
}

}  // namespace pyengine
