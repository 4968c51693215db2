#include "moves.h"

#include <pybind11/stl.h>

#include <array>

#include "arguments.h"
#include "memory/moves.h"

namespace pyengine {

void bind_moves(pybind11::module_& m) {
    m.def(
        "join_rows",  // steps, in bytes: between pictures and between rows, of either
        [](uintptr_t first, uintptr_t second, uintptr_t y, int64_t pictures, int64_t first_rows,
           int64_t second_rows, int64_t bytes, const std::array<int64_t, 4>& step, int threads) {
            join_rows({at<void>(first), at<void>(second), at<void>(y), pictures, first_rows,
                       second_rows, bytes, step[0], step[1], step[2], step[3]},
                      threads);
        },
        Release());
    m.def(
        "halve",
        [](uintptr_t x, uintptr_t y, int64_t pictures, int64_t height, int64_t width,
           int64_t channels, int64_t height_out, int64_t width_out, int threads) {
            halve({at<void>(x), at<void>(y), pictures, height, width, channels, height_out,
                   width_out},
                  threads);
        },
        Release());
    m.def(
        "enlarge",
        [](uintptr_t x, uintptr_t y, int64_t pictures, int64_t height, int64_t width,
           int64_t channels, int64_t height_out, int64_t width_out, int64_t bytes, int threads) {
            enlarge({at<void>(x), at<void>(y), pictures, height, width, channels, height_out,
                     width_out},
                    bytes, threads);
        },
        Release());
    m.def(
        "divide",
        [](uintptr_t x, double by, int64_t count, int threads) {
            divide(at<float>(x), static_cast<float>(by), count, threads);
        },
        Release());
    m.def(
        "modulate",
        [](uintptr_t scale, uintptr_t shift, uintptr_t by, uintptr_t scale_out, uintptr_t shift_out,
           int64_t pictures, int64_t channels) {
            modulate({at<float>(scale), at<float>(shift), at<float>(by), at<float>(scale_out),
                      at<float>(shift_out), pictures, channels});
        },
        Release());
}

}  // namespace pyengine
