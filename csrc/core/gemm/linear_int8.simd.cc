#include "gemm/linear_int8.h"

#include "gemm/epilogue_int8.simd.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/round_int8.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Steps of K in one pass: two panels then take 40 KB of the first-level cache.
constexpr int64_t kPassSteps = 20;
constexpr int64_t kMostSteps = (int64_t{1} << 17) / kInt8Step;

// --- rounding ------------------------------------------------------------------------------------

// n elements of one input through the prologue; returns the magnitudes' largest bits, lane by lane.
template <bool Scaled, bool Silu, class T>
PYENGINE_INLINE Bits prologue(const T* x, int64_t n, const float* scale, const float* shift,
                              float* line, Bits most) {
    for_vectors(n, [&](int64_t i, auto lanes) {
        Floats v = load(x + i, lanes);
        if (Scaled) v = fma(v, load(scale + i, lanes), load(shift + i, lanes));
        if (Silu) v = silu(v);
        store(line + i, v, lanes);
        most = larger(most, magnitude(first_lanes(v, lanes)));
    });
    return most;
}

template <class T>
Bits read_part(const LinearArgs& args, const T* x, int64_t n, const float* scale,
               const float* shift, float* line, Bits most) {
    if (args.scale)
        return args.silu ? prologue<true, true>(x, n, scale, shift, line, most)
                         : prologue<true, false>(x, n, scale, shift, line, most);
    return args.silu ? prologue<false, true>(x, n, scale, shift, line, most)
                     : prologue<false, false>(x, n, scale, shift, line, most);
}

// Row `row` of the call to its places in the tiles.
template <class T>
void round_row(const LinearInt8Work& work, int64_t row, float* line) {
    const LinearArgs& args = work.args;
    const int64_t depth = args.channels + args.channels2;
    const float *scale = nullptr, *shift = nullptr;
    if (args.scale) {
        const int64_t at = row / args.picture_rows * depth;
        scale = args.scale + at;
        shift = args.shift + at;
    }
    Bits most{};
    most = read_part(args, static_cast<const T*>(args.x) + row * args.channels, args.channels,
                     scale, shift, line, most);
    if (args.channels2)
        most = read_part(args, static_cast<const T*>(args.x2) + row * args.channels2,
                         args.channels2, scale ? scale + args.channels : nullptr,
                         shift ? shift + args.channels : nullptr, line + args.channels, most);
    const RowScale of_row = row_scale(most);
    const int64_t place = row - work.row;
    work.row_scale[place] = of_row.scale;
    int8_t* to = work.a + place / kInt8TileRows * work.steps * kInt8TileBytes +
                 place % kInt8TileRows * kInt8Step;
    for (int64_t k = 0; k < depth; k += kInt8Step, to += kInt8TileBytes)
        round_step(line + k, least(kInt8Step, depth - k), of_row.inverse, to);
}

template <class T>
void round_rows(const LinearInt8Work& work, int64_t begin, int64_t end, float* line) {
    for (int64_t row = begin; row < end; ++row) round_row<T>(work, row, line);
}

// --- the product ---------------------------------------------------------------------------------

struct Share {
    const LinearInt8Work& work;
    FinishInt8 finish;
    int32_t* sums;

    int64_t panels_of(int64_t unit) const {
        if (is_gated(work.args.activation)) return 2;
        return least(2, ceil_divide(work.args.outputs, kPanel) - unit * 2);
    }

    // Rows [begin, end) of the work by one unit of outputs.
    void multiply(int64_t begin, int64_t end, int64_t unit) const {
        const LinearArgs& args = work.args;
        const bool gated = is_gated(args.activation);
        const int64_t panel = work.steps * kInt8TileBytes, panels = panels_of(unit);
        const int64_t apart = gated ? ceil_divide(args.outputs, kPanel) * panel : panel;
        const int8_t* weight =
            static_cast<const int8_t*>(args.weight) + (gated ? unit : unit * 2) * panel;
        const int64_t column = unit * (gated ? kPanel : kInt8Columns);
        // Without channels there is one of no steps, whose sums are zero.
        const int64_t passes = work.steps ? ceil_divide(work.steps, kPassSteps) : 1;
        const int64_t most = 2 * kInt8TileRows;
        int64_t offset[kMostSteps];
        for (int64_t s = 0; s < work.steps; ++s) offset[s] = s * kInt8TileBytes;
        for (int64_t pass = 0; pass < passes; ++pass) {
            const int64_t from = work.steps * pass / passes;
            const int64_t steps = work.steps * (pass + 1) / passes - from;
            for (int64_t row = begin; row < end; row += most) {
                const int64_t rows = least(most, end - row);
                const int8_t* tile = work.a + row / kInt8TileRows * panel;
                const Int8Rows lines{{tile, tile + panel}, kInt8Step, offset + from};
                int32_t* c = sums + (passes > 1 ? row - begin : 0) * kInt8Columns;
                work.product->multiply(lines, rows, weight + from * kInt8TileBytes, apart,
                                       static_cast<int>(panels), steps, c, pass > 0);
                if (pass + 1 < passes) continue;
                finish(work, row, rows, column, c);
            }
        }
    }
};

}  // namespace

// Shares [begin, end) of the rows to be rounded.
void linear_int8_rows(const LinearInt8Work& work, int64_t begin, int64_t end) {
    const int64_t share = work.row_tiles_of_line * kInt8TileRows;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t from = work.row + i * share, to = least(from + share, work.end);
        float* line = work.line + i * work.line_stride;
        with_type(work.args.dtype, [&](auto t) { round_rows<decltype(t)>(work, from, to, line); });
    }
}

void linear_int8(const LinearInt8Work& work, int64_t begin, int64_t end) {
    FinishInt8 finish = nullptr;
    with_type(work.args.dtype, [&](auto t) { finish = finish_int8<decltype(t)>; });
    const int64_t rows = work.end - work.row, tiles = ceil_divide(rows, kInt8TileRows);
    work.product->begin();
    for (int64_t i = begin; i < end; ++i) {
        const Share share{work, finish, work.sums + i * work.sum_stride};
        const int64_t r = i / work.unit_shares, u = i % work.unit_shares;
        const int64_t first = tiles * r / work.row_shares * kInt8TileRows;
        const int64_t last = least(tiles * (r + 1) / work.row_shares * kInt8TileRows, rows);
        for (int64_t row = first; row < last; row += kInt8BlockRows)
            for (int64_t unit = work.units * u / work.unit_shares;
                 unit < work.units * (u + 1) / work.unit_shares; ++unit)
                share.multiply(row, least(row + kInt8BlockRows, last), unit);
    }
    work.product->end();
}

}  // namespace pyengine::PYENGINE_NS
