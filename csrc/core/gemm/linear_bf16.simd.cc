// linear of bfloat16 activations and bfloat16 weights; every other pair of dtypes is computed as
// the instruction set beneath does.
#include "gemm/epilogue.simd.h"
#include "gemm/linear.h"
#include "gemm/pairs.h"
#include "gemm/product_bf16.simd.h"
#include "isa/bfloat16.simd.h"
#include "isa/math.simd.h"
#include "isa/math_bf16.simd.h"
#include "table.h"

namespace pyengine::PYENGINE_BASE {
extern const Table kTable;
}

namespace pyengine::PYENGINE_NS {

template <>
struct ActivationsOf<FlushedBFloat16> {
    PYENGINE_INLINE Floats silu(Floats x) { return silu_bf16(x); }
    PYENGINE_INLINE Floats gelu(Floats x) { return gelu_bf16(x); }
    PYENGINE_INLINE Floats quick_gelu(Floats x) { return quick_gelu_bf16(x); }
    PYENGINE_INLINE Floats gelu_tanh(Floats x) { return gelu_tanh_bf16(x); }
};

namespace {

// --- A: rows of x | x2 through the prologue ------------------------------------------------------

// n elements of one tensor; scale and shift at its first.
template <bool Scaled, bool Silu>
PYENGINE_INLINE void prologue(const BFloat16* x, int64_t n, const float* scale, const float* shift,
                              BFloat16* to) {
    FlushedBFloat16* rounded = reinterpret_cast<FlushedBFloat16*>(to);
    for_vectors(n, [&](int64_t i, auto lanes) {
        Floats v = load(reinterpret_cast<const FlushedBFloat16*>(x) + i, lanes);
        if (Scaled) v = fma(v, load(scale + i, lanes), load(shift + i, lanes));
        if (Silu) v = silu_bf16(v);
        store(rounded + i, v, lanes);
    });
}

void gather_part(const LinearArgs& args, const BFloat16* x, int64_t n, const float* scale,
                 const float* shift, BFloat16* to) {
    if (args.scale)
        args.silu ? prologue<true, true>(x, n, scale, shift, to)
                  : prologue<true, false>(x, n, scale, shift, to);
    else if (args.silu)
        prologue<false, true>(x, n, scale, shift, to);
    else
        __builtin_memcpy(to, x, static_cast<size_t>(n) * sizeof(BFloat16));
}

struct Rows {
    const LinearArgs& args;

    // Tiles are copied: loaded from x itself, 16 lines of the cache far apart, they take longer.
    const BFloat16* tile_at(int64_t) const { return nullptr; }
    int64_t stride() const { return 0; }
    int64_t offset_of(int64_t) const { return 0; }

    void gather(int64_t row, int64_t rows, int64_t begin, int64_t end, BFloat16* a) const {
        const int64_t channels = args.channels, channels2 = args.channels2;
        const BFloat16* x = static_cast<const BFloat16*>(args.x);
        const BFloat16* x2 = static_cast<const BFloat16*>(args.x2);
        const int64_t n = end - begin;
        const int64_t first = begin < channels ? least(end, channels) - begin : 0;  // those of x
        const bool plain = !args.scale && !args.silu;
        BFloat16 line[kPass];
        for (int64_t r = 0; r < rows; ++r) {
            const BFloat16* of_x = x + (row + r) * channels + begin;
            const BFloat16* of_x2 = x2 + (row + r) * channels2 + (begin + first - channels);
            if (plain && first == n) {
                spread_row(of_x, n, place_of(a, r, 0));
                continue;
            }
            if (plain && first == 0) {
                spread_row(of_x2, n, place_of(a, r, 0));
                continue;
            }
            const float *scale = nullptr, *shift = nullptr;
            if (args.scale) {
                const int64_t at = (row + r) / args.picture_rows * (channels + channels2) + begin;
                scale = args.scale + at;
                shift = args.shift + at;
            }
            if (first) gather_part(args, of_x, first, scale, shift, line);
            if (first < n)
                gather_part(args, of_x2, n - first, scale ? scale + first : nullptr,
                            shift ? shift + first : nullptr, line + first);
            spread_row(line, n, place_of(a, r, 0));
        }
    }
};

struct FinishRows {
    const LinearArgs& args;
    Finish finish;

    void operator()(int64_t row, int64_t rows, int64_t column, int64_t panels, const float* sums,
                    int64_t stride) const {
        finish(args, row, rows, column, panels, sums, stride);
    }

    void fetch(int64_t row, int64_t rows, int64_t column) const {
        fetch_lines(args.y, args.outputs, row, rows, column);
        if (args.residual) fetch_lines(args.residual, args.outputs, row, rows, column);
    }
};

PanelGroups groups_of(const LinearArgs& args, const LinearShare& share) {
    PanelGroups groups{};
    groups.weight = static_cast<const BFloat16*>(args.weight);
    groups.paired = args.weight_dtype == kBFloat16Pairs;
    groups.depth = args.channels + args.channels2;
    groups.gated = is_gated(args.activation);
    groups.panels = ceil_divide(args.outputs, kPanel);
    groups.begin = share.unit_begin;
    groups.end = share.unit_end;
    return groups;
}

ProductCut cut_of(const LinearArgs& args, const LinearShare& share) {
    const PanelGroups groups = groups_of(args, share);
    return ProductCut(groups, share.row_end - share.row_begin,
                      ceil_divide(groups.depth, kStep) * kStep, true);
}

bool computes(const LinearArgs& args) {
    return args.dtype == DType::bfloat16 && is_bfloat16(args.weight_dtype) &&
           args.channels + args.channels2 > 0;
}

}  // namespace

int64_t linear_scratch(const LinearArgs& args, const LinearShare& share) {
    if (!computes(args)) return PYENGINE_BASE::kTable.linear_scratch(args, share);
    return cut_of(args, share).floats();
}

void linear(const LinearArgs& args, const LinearShare& share, float* scratch) {
    if (!computes(args)) return PYENGINE_BASE::kTable.linear(args, share, scratch);
    const PanelGroups groups = groups_of(args, share);
    const ProductCut cut = cut_of(args, share);
    const FinishRows finish{args, finish_for<FlushedBFloat16>(args)};
    const Rows rows{args};
    Product(groups, cut, rows, finish, scratch).run(share.row_begin, share.row_end);
}

}  // namespace pyengine::PYENGINE_NS
