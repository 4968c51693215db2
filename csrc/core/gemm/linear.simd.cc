#include "gemm/linear.h"

#include "gemm/epilogue.simd.h"
#include "gemm/few_rows.simd.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Floats of A that stay in the second-level cache: 300 KB of its 512 (Zen) to 1024 (Cascade Lake).
constexpr int64_t kBlockFloats = 240 * 320;
// Sums of a block that wait for the next pass: 1 MB at most.
constexpr int64_t kSumFloats = 240 * 1024;

// Most elements of K in one chain. For one row torch adds up 32 sums, so that chains of kChain err
// up to 4 times as much; of 40, from K = 64 on, 2.1 times. They take 5 to 7% longer.
constexpr int64_t kLinearChain = 40;

// Rows for which narrow weights are widened in registers.
constexpr int kFewRows = kTileRows < 4 ? kTileRows : 4;

// Tiles over which it pays to fetch the next weights: while few are computed, all wait for memory.
constexpr int64_t kFetchTiles = 8;

// How a share is cut. K falls into passes of one length, give or take an element, a function of K
// alone: the sums of the passes are added up in their order, which is all that bits depend on.
struct Plan {
    int64_t depth;   // K
    int64_t passes;  // over K, each at most kDepth
    int64_t panels;  // of a group: what is multiplied before the epilogue
    int64_t groups_begin, groups_end;
    int64_t panel_stride;  // weight elements from one panel of a group to the next
    int64_t group_stride;  // and from one group to the next
    bool resident;         // a block of A holds all passes: each group is finished before the next
    int64_t block_rows;
    int64_t chunk;  // groups whose sums are kept from pass to pass

    int64_t pass_begin(int64_t pass) const { return depth * pass / passes; }
};

Plan plan_of(const LinearArgs& args, const LinearShare& share) {
    Plan plan;
    plan.depth = args.channels + args.channels2;
    plan.passes = plan.depth > kDepth ? ceil_divide(plan.depth, kDepth) : 1;
    const bool gated = is_gated(args.activation);
    const int64_t panels = ceil_divide(args.outputs, kPanel), panel = plan.depth * kPanel;
    plan.panels = gated ? 2 : kTilePanels;
    plan.panel_stride = gated ? panels * panel : panel;
    plan.group_stride = gated ? panel : kTilePanels * panel;
    const int64_t groups_of_unit = gated ? 1 : 2 / kTilePanels;
    plan.groups_begin = share.unit_begin * groups_of_unit;
    plan.groups_end =
        least(share.unit_end * groups_of_unit, gated ? panels : ceil_divide(panels, kTilePanels));

    const int64_t rows = share.row_end - share.row_begin;
    const int64_t block = kBlockFloats / kDepth;
    // Several passes over fewer rows each would read all weights more often: 85 GFLOP/s for 92.
    plan.resident = plan.passes == 1 || rows * plan.passes <= block;
    // Blocks of about one height: a last one of a few rows would read all weights for them.
    plan.block_rows = ceil_divide(rows, ceil_divide(rows, block));
    const int64_t strip = plan.block_rows * plan.panels * kPanel;
    plan.chunk = plan.resident ? 1 : kSumFloats / strip;
    return plan;
}

template <class Use>
PYENGINE_INLINE void with_weight_type(DType dtype, const Use& use) {
    if (dtype == DType::int8) return use(Int8{});
    with_type(dtype, use);
}

// --- A: rows of x | x2 through the prologue ------------------------------------------------------

template <bool Scaled, bool Silu, class T>
PYENGINE_INLINE void prologue(const T* x, int64_t n, const float* scale, const float* shift,
                              float* a) {
    for_vectors(n, [&](int64_t i, auto lanes) {
        Floats v = load(x + i, lanes);
        if (Scaled) v = fma(v, load(scale + i, lanes), load(shift + i, lanes));
        if (Silu) v = silu(v);
        store(a + i, v, lanes);
    });
}

// Elements [k, k + n) of a row of one tensor; scale and shift at its first.
template <class T>
void gather_part(const LinearArgs& args, const T* x, int64_t n, const float* scale,
                 const float* shift, float* a) {
    if (args.scale)
        args.silu ? prologue<true, true>(x, n, scale, shift, a)
                  : prologue<true, false>(x, n, scale, shift, a);
    else
        args.silu ? prologue<false, true>(x, n, scale, shift, a)
                  : prologue<false, false>(x, n, scale, shift, a);
}

// Elements [begin, end) of K of some rows, kDepth apart.
template <class T>
void gather(const LinearArgs& args, int64_t row, int64_t rows, int64_t begin, int64_t end,
            float* a) {
    const int64_t channels = args.channels, channels2 = args.channels2;
    const T *x = static_cast<const T*>(args.x), *x2 = static_cast<const T*>(args.x2);
    const int64_t first = begin < channels ? least(end, channels) - begin : 0;  // those of x
    for (int64_t r = row; r < row + rows; ++r, a += kDepth) {
        const float *scale = nullptr, *shift = nullptr;
        if (args.scale) {
            const int64_t at = r / args.picture_rows * (channels + channels2) + begin;
            scale = args.scale + at;
            shift = args.shift + at;
        }
        if (first) gather_part(args, x + r * channels + begin, first, scale, shift, a);
        if (first < end - begin)
            gather_part(args, x2 + r * channels2 + (begin + first - channels), end - begin - first,
                        scale ? scale + first : nullptr, shift ? shift + first : nullptr,
                        a + first);
    }
}

// --- the product -----------------------------------------------------------------------------

// Weights that will be wanted next: panels, stride apart, `bytes` of each; or nothing.
struct Ahead {
    const char* first;
    int64_t stride, bytes;

    // Asks the second-level cache for one of `parts` equal parts.
    void fetch(int panels, int64_t part, int64_t parts) const {
        const int64_t begin = bytes * part / parts, end = bytes * (part + 1) / parts;
        for (int p = 0; p < panels; ++p)
            for (int64_t i = begin; i < end; i += 64)
                __builtin_prefetch(first + p * stride + i, 0, 2);
    }
};

// All rows of a block by one or two panels. Tiles are of about one height: the last would otherwise
// be so low that its few sums wait for each other.
template <int Panels, int Rows, class W>
void multiply(const float* a, int64_t rows, const W* b, int64_t b_stride, int64_t depth, float* c,
              int64_t c_stride, bool accumulate, const Ahead& ahead) {
    const int64_t tiles = ceil_divide(rows, Rows);
    const bool fetches = ahead.first && tiles >= kFetchTiles;
    for (int64_t t = 0, row = 0; t < tiles; ++t) {
        if (fetches) ahead.fetch(Panels, t, tiles);
        const int64_t next = rows * (t + 1) / tiles;
        tile_of<Panels, Rows, kLinearChain>(next - row, a + row * kDepth, b, b_stride, depth,
                                            c + row * c_stride, c_stride, accumulate);
        row = next;
    }
}

// The panels of one group, b_stride apart, and where the next group begins (or null). c: the
// block's sums, a group wide. Narrow weights that more than a few rows use are widened once, into
// the first-level cache.
template <int Panels, class W>
void multiply_panels(const float* a, int64_t rows, const W* b, int64_t b_stride, int64_t depth,
                     float* c, int64_t c_stride, bool accumulate, const W* next, float* wide) {
    const Ahead ahead{reinterpret_cast<const char*>(next), b_stride * int64_t{sizeof(W)},
                      depth * kPanel * int64_t{sizeof(W)}};
    if constexpr (sizeof(W) == 4) {
        multiply<Panels, kTileRows>(a, rows, b, b_stride, depth, c, c_stride, accumulate, ahead);
    } else if (sizeof(W) == 1 && rows <= kFewRows) {
        if constexpr (sizeof(W) == 1)
            few_rows_of<Panels, kFewRows, kLinearChain>(rows, a, b, b_stride, depth, c, c_stride,
                                                        accumulate);
    } else if (rows <= kFewRows) {
        multiply<Panels, kFewRows>(a, rows, b, b_stride, depth, c, c_stride, accumulate, ahead);
    } else {
        for (int p = 0; p < Panels; ++p)
            for (int64_t i = 0; i < depth * kPanel; i += kLanes)
                store(wide + p * kDepth * kPanel + i, load(b + p * b_stride + i));
        multiply<Panels, kTileRows, float>(a, rows, wide, kDepth * kPanel, depth, c, c_stride,
                                           accumulate, ahead);
    }
}

template <class W>
void multiply_group(int64_t panels, const float* a, int64_t rows, const W* b, int64_t b_stride,
                    int64_t depth, float* c, int64_t c_stride, bool accumulate, const W* next,
                    float* wide) {
    int64_t p = 0;
    if constexpr (kTilePanels == 2)
        for (; p + 2 <= panels; p += 2)  // a group has no more
            multiply_panels<2>(a, rows, b + p * b_stride, b_stride, depth, c + p * kPanel, c_stride,
                               accumulate, next, wide);
    for (; p < panels; ++p)
        multiply_panels<1>(a, rows, b + p * b_stride, b_stride, depth, c + p * kPanel, c_stride,
                           accumulate, p + 1 < panels ? b + (p + 1) * b_stride : next, wide);
}

// What int8 weights have left out of the sums of some panels: column is that of the first output.
void scale_sums(const LinearArgs& args, int64_t column, int64_t panels, int64_t rows, float* sums,
                int64_t stride) {
    const bool gated = is_gated(args.activation);
    for (int64_t p = 0; p < panels; ++p) {
        const int64_t at = gated ? column : column + p * kPanel;
        const float* scale = args.weight_scale + at + (gated ? p * args.outputs : 0);
        for_vectors(least(args.outputs - at, kPanel), [&](int64_t c, auto lanes) {
            const Floats factor = load(scale + c, lanes);
            float* to = sums + p * kPanel + c;
            for (int64_t r = 0; r < rows; ++r, to += stride) store(to, load(to) * factor);
        });
    }
}

// --- one share -------------------------------------------------------------------------------

// Panels that a group has: the last may lack one.
int64_t panels_of(const LinearArgs& args, const Plan& plan, int64_t group) {
    if (is_gated(args.activation)) return 2;
    return least(plan.panels, ceil_divide(args.outputs, kPanel) - group * plan.panels);
}

template <class T, class W>
struct Share {
    const LinearArgs& args;
    const Plan& plan;
    Finish finish;
    float *a, *sums, *wide;

    const W* weights(int64_t group, int64_t pass) const {
        return static_cast<const W*>(args.weight) + group * plan.group_stride +
               plan.pass_begin(pass) * kPanel;
    }

    // next: the weights of the call after this one, or null.
    void multiply(int64_t group, int64_t pass, int64_t rows, const float* from, float* to,
                  const W* next) const {
        multiply_group(panels_of(args, plan, group), from, rows, weights(group, pass),
                       plan.panel_stride, plan.pass_begin(pass + 1) - plan.pass_begin(pass), to,
                       plan.panels * kPanel, pass > 0, next, wide);
    }

    void finish_group(int64_t group, int64_t row, int64_t rows, float* from) const {
        const int64_t columns = is_gated(args.activation) ? kPanel : plan.panels * kPanel;
        if constexpr (sizeof(W) == 1)
            scale_sums(args, group * columns, panels_of(args, plan, group), rows, from,
                       plan.panels * kPanel);
        finish(args, row, rows, group * columns, panels_of(args, plan, group), from,
               plan.panels * kPanel);
    }

    void gather_pass(int64_t pass, int64_t row, int64_t rows, float* to) const {
        gather<T>(args, row, rows, plan.pass_begin(pass), plan.pass_begin(pass + 1), to);
    }

    // All of K is in the block: a group's sums stay in the first-level cache.
    void resident_block(int64_t row, int64_t rows) const {
        for (int64_t pass = 0; pass < plan.passes; ++pass)
            gather_pass(pass, row, rows, a + pass * rows * kDepth);
        for (int64_t group = plan.groups_begin; group < plan.groups_end; ++group) {
            for (int64_t pass = 0; pass < plan.passes; ++pass) {
                const W* next = pass + 1 < plan.passes        ? weights(group, pass + 1)
                                : group + 1 < plan.groups_end ? weights(group + 1, 0)
                                                              : nullptr;
                multiply(group, pass, rows, a + pass * rows * kDepth, sums, next);
            }
            finish_group(group, row, rows, sums);
        }
    }

    // One pass is in the block, and the sums of a chunk of groups wait for the next.
    void streaming_block(int64_t row, int64_t rows) const {
        const int64_t strip = rows * plan.panels * kPanel;
        for (int64_t begin = plan.groups_begin; begin < plan.groups_end; begin += plan.chunk) {
            const int64_t end = least(begin + plan.chunk, plan.groups_end);
            for (int64_t pass = 0; pass < plan.passes; ++pass) {
                gather_pass(pass, row, rows, a);
                for (int64_t group = begin; group < end; ++group) {
                    float* to = sums + (group - begin) * strip;
                    multiply(group, pass, rows, a, to,
                             group + 1 < end ? weights(group + 1, pass) : nullptr);
                    if (pass + 1 == plan.passes) finish_group(group, row, rows, to);
                }
            }
        }
    }
};

// Floats of each part of the scratch memory, whole cache lines.
struct Room {
    int64_t a, sums, wide;
};

Room room_of(const LinearArgs& args, const Plan& plan) {
    const int64_t groups = least(plan.chunk, plan.groups_end - plan.groups_begin);
    return {plan.block_rows * (plan.resident ? plan.passes : 1) * kDepth,
            plan.block_rows * plan.panels * kPanel * groups,
            args.weight_dtype == DType::float32 ? 0 : kTilePanels * kDepth * kPanel};
}

}  // namespace

// Floats of scratch memory that a share needs.
int64_t linear_scratch(const LinearArgs& args, const LinearShare& share) {
    const Room room = room_of(args, plan_of(args, share));
    return room.a + room.sums + room.wide;
}

void linear(const LinearArgs& args, const LinearShare& share, float* scratch) {
    const Plan plan = plan_of(args, share);
    const Room room = room_of(args, plan);
    with_type(args.dtype, [&](auto t) {
        with_weight_type(args.weight_dtype, [&](auto w) {
            using T = decltype(t);
            using W = decltype(w);
            const Share<T, W> work{args,
                                   plan,
                                   finish_for<T>(args),
                                   scratch,
                                   scratch + room.a,
                                   scratch + room.a + room.sums};
            for (int64_t row = share.row_begin; row < share.row_end; row += plan.block_rows) {
                const int64_t rows = least(plan.block_rows, share.row_end - row);
                plan.resident ? work.resident_block(row, rows) : work.streaming_block(row, rows);
            }
        });
    });
}

}  // namespace pyengine::PYENGINE_NS
