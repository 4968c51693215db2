#include "conv/winograd.h"

#include "conv/winograd_input.simd.h"
#include "conv/winograd_transforms.simd.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// --- the weights ---------------------------------------------------------------------------------

// U[position][k][16] of one panel from its [3][3][channels][16], k channels from the first.
template <int Output, class W>
void transform_weights(const W* weight, int64_t channels, int64_t k, int64_t position_stride,
                       float* u) {
    constexpr int kSide = Output + 2;
    const int64_t tap = channels * kPanel;
    for (int64_t i = 0; i < k * kPanel; i += kLanes) {
        Floats g[3][3];
#pragma GCC unroll 9
        for (int t = 0; t < 9; ++t) g[t % 3][t / 3] = load(weight + t * tap + i);
        Floats columns[3][kSide];
#pragma GCC unroll 3
        for (int x = 0; x < 3; ++x) Winograd<Output>::weights(g[x], columns[x]);
#pragma GCC unroll 8
        for (int y = 0; y < kSide; ++y) {
            const Floats row[3] = {columns[0][y], columns[1][y], columns[2][y]};
            Floats t[kSide];
            Winograd<Output>::weights(row, t);
#pragma GCC unroll 8
            for (int x = 0; x < kSide; ++x) store(u + (y * kSide + x) * position_stride + i, t[x]);
        }
    }
}

// Weights that are wanted next, fetched from memory a few lines at a time between the products of
// what is there: nine taps of some panels, a run of channels each. On few tiles (8x8 pixels) that
// took 9% off the time.
class Ahead {
 public:
    template <class W>
    Ahead(const W* weight, int64_t channels, int64_t k, int64_t panels, int64_t calls)
        : next_(reinterpret_cast<const char*>(weight)),
          run_(k * kPanel * int64_t{sizeof(W)}),
          stride_(channels * kPanel * int64_t{sizeof(W)}),
          runs_(9 * panels),
          lines_(ceil_divide(runs_ * run_ / kLine, calls)) {}

    // The next of `calls` shares.
    void fetch() {
        for (int64_t i = 0; i < lines_ && runs_ > 0; ++i) {
            __builtin_prefetch(next_ + at_, 0, 2);
            at_ += kLine;
            if (at_ < run_) continue;
            at_ = 0;
            next_ += stride_;
            --runs_;
        }
    }

 private:
    static constexpr int64_t kLine = 64;
    const char* next_;  // of the taps, which lie `stride_` apart through all panels
    int64_t run_, stride_, runs_, lines_, at_ = 0;
};

// --- the products --------------------------------------------------------------------------------

constexpr int64_t kGroup = kWinogradGroup;

// Of so few rows a tile takes two panels where it otherwise takes one, or the sums would wait for
// themselves.
constexpr int kFewRows = kTileRows / 3;
constexpr bool kWideTiles = kGroup == 2 * kTilePanels;

PYENGINE_INLINE int64_t row_tiles(int64_t rows) {
    return ceil_divide(rows, kTileRows);
}

PYENGINE_INLINE void prefetch_rows(const float* a, int64_t rows, int64_t k) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < k; i += 16) __builtin_prefetch(a + r * kDepth + i, 0, 3);
}

struct Product {
    int64_t rows, panels, k, c_stride;
    bool accumulate;
};

// C[rows][c_stride] of the panels, at most kGroup, side by side (+)= A[rows][kDepth]
// B[panel][k][16]. `next` is the A of the next call.
void multiply(const Product& product, const float* a, const float* next, const float* b, float* c,
              Ahead& ahead) {
    const auto [rows, panels, k, c_stride, accumulate] = product;
    const int64_t tiles = row_tiles(rows), b_stride = k * kPanel;
    for (int64_t t = 0; t < tiles; ++t) {
        // Of nearly equal height: one of a row or two that were left over would be slow.
        const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles, height = to - from;
        const float* at = a + from * kDepth;
        float* sums = c + from * c_stride;
        // The rows of a tile lie too far apart for the hardware to foresee the next ones.
        if (t + 1 < tiles)
            prefetch_rows(a + to * kDepth, rows * (t + 2) / tiles - to, k);
        else
            prefetch_rows(next, rows / tiles, k);
        ahead.fetch();
        if (kWideTiles && panels == kGroup && height <= kFewRows) {
            tile_of<kGroup, kFewRows>(height, at, b, b_stride, k, sums, c_stride, accumulate);
            continue;
        }
        int64_t p = 0;
        for (; p + kTilePanels <= panels; p += kTilePanels)
            tile_of<kTilePanels>(height, at, b + p * b_stride, b_stride, k, sums + p * kPanel,
                                 c_stride, accumulate);
        if (p < panels)
            tile_of<1>(height, at, b + p * b_stride, b_stride, k, sums + p * kPanel, c_stride,
                       accumulate);
    }
}

// --- the output ----------------------------------------------------------------------------------

// Tiles [from, to) of this block and panels [panel, panel + panels); next_panels follow them.
struct Group {
    int64_t from, to, panel, panels, next_panels;
};

// One vector of channels of one tile: m [positions][kGroup * 16].
template <int Output, class T, class Lanes>
PYENGINE_INLINE void finish_vector(const Conv2dArgs& args, const float* m, int64_t picture,
                                   int64_t y, int64_t x, int64_t channel, Lanes lanes) {
    constexpr int kSide = Output + 2;
    Floats columns[kSide][Output];
#pragma GCC unroll 8
    for (int j = 0; j < kSide; ++j) {
        Floats d[kSide];
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) d[i] = load(m + (i * kSide + j) * kGroup * kPanel);
        Winograd<Output>::output(d, columns[j]);
    }
    Floats base{};
    if (args.bias) base += load(args.bias + channel, lanes);
    if (args.channel_add)
        base += load(
            static_cast<const T*>(args.channel_add) + picture * args.channels_out + channel, lanes);
    Floats slope{};
    if (args.slopes) slope = load(args.slopes + channel, lanes);
    const int64_t rows = least(Output, args.height_out - y);
    const int64_t width = least(Output, args.width_out - x);
    for (int64_t i = 0; i < rows; ++i) {
        Floats row[kSide], values[Output];
#pragma GCC unroll 8
        for (int j = 0; j < kSide; ++j) row[j] = columns[j][i];
        Winograd<Output>::output(row, values);
        const int64_t at =
            ((picture * args.height_out + y + i) * args.width_out + x) * args.channels_out +
            channel;
        T* to = static_cast<T*>(args.y) + at;
        const T* residual = args.residual ? static_cast<const T*>(args.residual) + at : nullptr;
        for (int64_t j = 0; j < width; ++j) {
            Floats value = values[j] + base;
            if (args.slopes) value = leak(value, slope);
            if (residual) value += load(residual + j * args.channels_out, lanes);
            store(to + j * args.channels_out, value, lanes);
        }
    }
}

template <int Output, class T>
void finish(const WinogradArgs& args, const float* m, const Group& group) {
    constexpr int64_t kPositions = (Output + 2) * (Output + 2);
    const Conv2dArgs& conv = args.conv;
    const int64_t first = group.panel * kPanel;
    const int64_t count = least(group.panels * kPanel, conv.channels_out - first);
    for (int64_t i = group.from; i < group.to; ++i, m += kPositions * kGroup * kPanel) {
        const int64_t tile = args.first_tile + i, row = tile / args.tiles_wide;
        const int64_t y = row % args.tiles_high * Output, x = tile % args.tiles_wide * Output;
        for_vectors(count, [&](int64_t c, auto lanes) {
            finish_vector<Output, T>(conv, m + c, row / args.tiles_high, y, x, first + c, lanes);
        });
    }
}

// --- the second phase ----------------------------------------------------------------------------

// What multiply_group reads after channels [.., end) of the group's panels.
template <class W>
Ahead ahead_of(const WinogradArgs& args, const Group& group, int64_t end, int64_t calls) {
    const int64_t channels = args.conv.channels + args.conv.channels2;
    const bool last = end == channels;
    const int64_t panel = group.panel + (last ? group.panels : 0), first = last ? 0 : end;
    return {static_cast<const W*>(args.conv.weight) + (panel * 9 * channels + first) * kPanel,
            channels, least(args.pass, channels - first), last ? group.next_panels : group.panels,
            calls};
}

template <int Output, class W>
void multiply_group(const WinogradArgs& args, const Group& group, float* u, float* m) {
    constexpr int64_t kPositions = (Output + 2) * (Output + 2);
    const int64_t channels = args.conv.channels + args.conv.channels2, panels = group.panels;
    const int64_t rows = group.to - group.from;
    const int64_t calls = kPositions * row_tiles(rows);
    for (int64_t slab = 0; slab * args.slab < channels; ++slab) {
        const int64_t begin = slab * args.slab, end = least(begin + args.slab, channels);
        for (int64_t first = begin; first < end; first += args.pass) {
            const int64_t k = least(args.pass, end - first);
            // One line more, so that the positions do not all fall into the same set of the cache.
            const int64_t stride = panels * k * kPanel + kPanel;
            for (int64_t p = 0; p < panels; ++p)
                transform_weights<Output>(static_cast<const W*>(args.conv.weight) +
                                              ((group.panel + p) * 9 * channels + first) * kPanel,
                                          channels, k, stride, u + p * k * kPanel);
            Ahead ahead = ahead_of<W>(args, group, first + k, calls);
            const Product product{.rows = rows,
                                  .panels = panels,
                                  .k = k,
                                  .c_stride = kPositions * kGroup * kPanel,
                                  .accumulate = first > 0};
            const float* v =
                args.input + slab * args.slab_stride + group.from * kDepth + first - begin;
            for (int64_t i = 0; i < kPositions; ++i, v += args.position_stride)
                multiply(product, v, v + args.position_stride, u + i * stride,
                         m + i * kGroup * kPanel, ahead);
        }
    }
}

// The items are pairs of a part of the tiles and a unit of as many panels as a register tile takes.
template <int Output, class W>
void multiply_share(const WinogradArgs& args, int64_t share) {
    const int64_t panels = ceil_divide(args.conv.channels_out, kPanel);
    const int64_t units = ceil_divide(panels, kTilePanels);
    const int64_t all = args.tile_parts * units, end = all * (share + 1) / args.shares;
    float* u = args.scratch + share * args.scratch_stride;
    float* m = u + winograd_weights_floats(args.output_tile, args.pass);
    for (int64_t i = all * share / args.shares; i < end;) {
        const int64_t part = i / units, unit = i % units;
        const auto group_at = [&](int64_t from, int64_t left) {  // its panels
            const int64_t run = least(least(kGroup / kTilePanels, units - from), left);
            return run ? least(run * kTilePanels, panels - from * kTilePanels) : 0;
        };
        Group group{.from = args.tiles * part / args.tile_parts,
                    .to = args.tiles * (part + 1) / args.tile_parts,
                    .panel = unit * kTilePanels,
                    .panels = group_at(unit, end - i),
                    .next_panels = 0};
        const int64_t run = ceil_divide(group.panels, kTilePanels);
        group.next_panels = group_at(unit + run, end - i - run);
        multiply_group<Output, W>(args, group, u, m);
        with_type(args.conv.dtype, [&](auto t) { finish<Output, decltype(t)>(args, m, group); });
        i += run;
    }
}

}  // namespace

// The first phase: fills args.input. T: the dtype of x. Items are shares.
template <class T>
void winograd_input(const WinogradArgs& args, int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share)
        args.output_tile == 4 ? transform_input<4, T>(args, share)
                              : transform_input<2, T>(args, share);
}

// The second: writes y. W: the dtype of the weights. Items are shares.
template <class W>
void winograd_output(const WinogradArgs& args, int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share)
        args.output_tile == 4 ? multiply_share<4, W>(args, share)
                              : multiply_share<2, W>(args, share);
}

PYENGINE_INSTANTIATE(winograd_input, PYENGINE_RANGE(WinogradArgs));
PYENGINE_INSTANTIATE(winograd_output, PYENGINE_RANGE(WinogradArgs));

}  // namespace pyengine::PYENGINE_NS
