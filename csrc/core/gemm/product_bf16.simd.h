// A share of a product of bfloat16 rows and packed panels: how it is cut to stay in the caches, for
// linear and convolution. Their sums do not depend on the cut: see tile_bf16.simd.h.
#pragma once

#include "gemm/tile_bf16.simd.h"
#include "isa/divide.simd.h"

namespace pyengine::PYENGINE_NS {

// The panels of one share: groups of two, multiplied side by side.
struct PanelGroups {
    const BFloat16* weight;  // the first panel's [depth][16]
    bool paired;             // or [depth / 2][16][2], with whole steps: see pairs.h
    int64_t depth;           // K
    int64_t begin, end;      // groups of the share
    int64_t panels;          // of the whole product, in pairs where `gated`
    bool gated;              // a group is a panel of values and one of gates; else two neighbours

    int64_t panel_elements() const { return depth * 16; }
    int64_t panels_of(int64_t group) const { return gated ? 2 : least(2, panels - group * 2); }
    int64_t columns() const { return gated ? 16 : 32; }  // of the result, for each group
    const BFloat16* panel(int64_t group, int64_t which) const {
        const int64_t at = gated ? which * panels + group : group * 2 + which;
        return weight + at * panel_elements();
    }
};

// Rows of a block, and elements of its A that stay in the second-level cache: 640 KB.
constexpr int64_t kRowsOfBlock = 512, kBlockElements = 320 * 1024;
// Sums of a block that wait for the next pass, 1 MB (of AMX's 2 MB second-level caches) or half.
#ifdef __AMX_BF16__
constexpr int64_t kSumsOfBlock = 256 * 1024;
#else
constexpr int64_t kSumsOfBlock = 128 * 1024;
#endif
// Floats of a row of sums: two panels.
constexpr int64_t kSumStride = 32;

// A cut of K into passes of at most kPass, and of the rows into blocks.
struct ProductCut {
    int64_t depth, steps, passes, block_rows, chunk;
    bool resident;  // a block's A holds all passes: each group is finished before the next
    bool copied;    // A is gathered into scratch memory, but for a last tile always

    // row_elements: of A that a row adds to what a block reads of it in all passes.
    ProductCut(const PanelGroups& panels, int64_t rows, int64_t row_elements, bool copied)
        : copied(copied) {
        depth = panels.depth;
        steps = ceil_divide(depth, kStep);
        passes = steps > kPassSteps ? ceil_divide(steps, kPassSteps) : 1;
        const int64_t deepest = ceil_divide(steps, passes) * kStep;
        // A block of a few rows would read all weights for them.
        resident = row_elements * least(rows, kRowsOfBlock / 2) <= kBlockElements;
        const int64_t fits = kBlockElements / (resident ? row_elements : deepest);
        block_rows = least(kRowsOfBlock, fits);
        // Blocks of about one height.
        block_rows = ceil_divide(rows, ceil_divide(rows, block_rows));
        block_rows = ceil_divide(block_rows, kTileHeight) * kTileHeight;
        const int64_t most = kSumsOfBlock / (block_rows * kSumStride);
        chunk = resident ? 1 : least(most, panels.end - panels.begin);
    }

    int64_t step_of(int64_t pass) const { return steps * pass / passes; }
    int64_t steps_of(int64_t pass) const { return step_of(pass + 1) - step_of(pass); }
    int64_t begin_of(int64_t pass) const { return step_of(pass) * kStep; }
    int64_t end_of(int64_t pass) const { return least(step_of(pass + 1) * kStep, depth); }

    // Of A, for a pass.
    int64_t block_elements() const { return (copied ? block_rows : kTileHeight) * kPass; }
    // Sums of a group: of a block's rows, or where nothing waits of a pair of tiles. (Block rows
    // are whole tiles, of which one alone may be left.)
    int64_t strip() const { return (passes > 1 ? block_rows : 2 * kTileHeight) * kSumStride; }
    // Floats of scratch memory: A, the sums, the pairs of two panels.
    int64_t a_floats() const { return block_elements() * (copied && resident ? passes : 1) / 2; }
    int64_t sum_floats() const { return strip() * chunk; }
    int64_t floats() const { return a_floats() + sum_floats() + pairs_elements(kPassSteps) / 2; }
};

// Where row r of a block's A has the elements of step s: tiles of kTileHeight rows, each step's
// next to each other.
PYENGINE_INLINE BFloat16* place_of(BFloat16* a, int64_t row, int64_t step) {
    return a + row / kTileHeight * kTileHeight * kPass + step * kTileElements +
           row % kTileHeight * kStep;
}

// Source has, of A: gather(row, rows, begin, end, a), which writes elements [begin, end) of K of
// some rows by place_of, zeros after the last in its step; and where the cut does not copy, of
// whole tiles, tile_at(row), stride() and offset_of(step) as in TileRows. Finish has finish(row,
// rows, column, panels, sums, stride), and fetch(row, rows, column), which asks the first-level
// cache for the lines that it will read and write: while they come, the tiles are multiplied.
template <class Source, class Finish>
struct Product {
    // Sums that are not finished yet: those of the last tiles that were multiplied.
    struct Pending {
        int64_t row, rows, column, panels;
        const float* sums;
        int64_t done;

        // Finishes the rows up to `end`.
        void finish_to(int64_t end, const Finish& finish) {
            if (end <= done) return;
            finish(row + done, end - done, column, panels, sums + done * kSumStride, kSumStride);
            done = end;
        }
    };

    const PanelGroups& panels;
    const ProductCut& cut;
    const Source& source;
    const Finish& finish;
    BFloat16* a;
    float* sums;
    BFloat16* pairs;
    mutable Pending pending{};

    Product(const PanelGroups& panels, const ProductCut& cut, const Source& source,
            const Finish& finish, float* scratch)
        : panels(panels),
          cut(cut),
          source(source),
          finish(finish),
          a(reinterpret_cast<BFloat16*>(scratch)),
          sums(scratch + cut.a_floats()),
          pairs(reinterpret_cast<BFloat16*>(sums + cut.sum_floats())) {}

    // Rows [begin, end).
    void run(int64_t begin, int64_t end) const {
        const TileUnit unit;
        for (int64_t row = begin; row < end; row += cut.block_rows) {
            const int64_t rows = least(cut.block_rows, end - row);
            cut.resident ? resident_block(row, rows) : streaming_block(row, rows);
        }
        pending.finish_to(pending.rows, finish);
    }

 private:
    // Weights that will be wanted next, of two panels: so many lines of each are asked for in a
    // step that all are when the rows of a block are done. A burst of requests would wait for
    // memory before the first product.
    struct Ahead {
        const BFloat16 *from, *end;
        int64_t beside;  // from the first panel to the second
        int64_t lines;

        void fetch() {  // into the second-level cache
            if (from >= end) return;
            for (int64_t i = 0; i < lines; ++i, from += kStep) {
                __builtin_prefetch(from, 0, 2);
                __builtin_prefetch(from + beside, 0, 2);
            }
        }
    };

    // Of a group and a pass, part `part` of `parts` of equal length, each of which has `steps`
    // steps to ask for it.
    Ahead ahead_of(int64_t group, int64_t pass, int64_t part, int64_t parts, int64_t steps) const {
        if (group >= panels.end) return {};
        const BFloat16* first = panels.panel(group, 0);
        const int64_t lines = ceil_divide((cut.end_of(pass) - cut.begin_of(pass)) * 16, kStep);
        const int64_t begin = lines * part / parts, end = lines * (part + 1) / parts;
        const BFloat16* from = first + cut.begin_of(pass) * 16;
        return {from + begin * kStep, from + end * kStep,
                panels.panels_of(group) == 2 ? panels.panel(group, 1) - first : 0,
                ceil_divide(end - begin, steps)};
    }

    // The tiles of a group's two panels, `stride` elements apart.
    struct Tiles {
        const BFloat16* first;
        int64_t stride;
    };

    Tiles tiles_of(int64_t group, int64_t pass) const {
        if (!panels.paired) {
            pair_panels(group, pass);
            return {pairs, pairs_elements(kPassSteps) / 2};
        }
        const BFloat16* first = panels.panel(group, 0);
        // Where there is no second one, the first once more: no result is made of its sums.
        const int64_t apart = panels.panels_of(group) == 2 ? panels.panel(group, 1) - first : 0;
        return {first + cut.begin_of(pass) * 16, apart};
    }

    void pair_panels(int64_t group, int64_t pass) const {
        const int64_t begin = cut.begin_of(pass), k = cut.end_of(pass) - begin;
        for (int64_t p = 0; p < 2; ++p) {
            BFloat16* to = pairs + p * pairs_elements(kPassSteps) / 2;
            if (p < panels.panels_of(group))
                pair_rows(panels.panel(group, p) + begin * 16, k, cut.steps_of(pass), to);
            else
                pair_rows(nullptr, 0, cut.steps_of(pass), to);
        }
    }

    // C (+)= A B for a group and a pass; after the last, what finish makes of it.
    void multiply(int64_t group, int64_t pass, int64_t row, int64_t rows, const BFloat16* copy,
                  float* to, int64_t next_group, int64_t next_pass) const {
        const Tiles weights = tiles_of(group, pass);
        const int64_t steps = cut.steps_of(pass), first_step = cut.step_of(pass);
        int64_t copied[kPassSteps], in_place[kPassSteps];
        for (int64_t s = 0; s < steps; ++s) {
            copied[s] = s * kTileElements;
            in_place[s] = cut.copied ? 0 : source.offset_of(first_step + s);
        }
        const int64_t tiles = ceil_divide(rows, kTileHeight);
        const int64_t whole = cut.copied ? 0 : rows / kTileHeight;  // tiles that are read in place
        for (int64_t tile = 0; tile < tiles;) {
            // Two tiles, but never one in place and one copied.
            const int64_t most = (tile < whole ? whole : tiles) - tile;
            const int64_t count = least(least(2, most) * kTileHeight, rows - tile * kTileHeight);
            TileRows lines{};
            if (tile < whole) {
                const int64_t at = row + tile * kTileHeight;
                lines = {
                    {source.tile_at(at), most > 1 ? source.tile_at(at + kTileHeight) : nullptr},
                    source.stride(),
                    in_place};
            } else {
                const BFloat16* from = copy + (tile - whole) * kTileHeight * kPass;
                lines = {{from, from + kTileHeight * kPass}, kStep, copied};
            }
            float* c = to + (cut.passes > 1 ? tile * kTileHeight * kSumStride : 0);
            const bool last = pass + 1 == cut.passes;
            const int64_t first_row = row + tile * kTileHeight, column = group * panels.columns();
            if (last) finish.fetch(first_row, count, column);
            Ahead ahead = ahead_of(next_group, next_pass, tile / 2, (tiles + 1) / 2, steps);
            multiply_tiles(lines, count, weights.first, weights.stride, steps, c, kSumStride,
                           pass > 0, [&](int64_t s) {
                               ahead.fetch();
                               // The last tiles' sums lie where these may be stored at the end.
                               const int64_t end = pending.rows * (s + 1) / steps;
                               pending.finish_to(s + 1 == steps ? end : end / 4 * 4, finish);
                           });
            if (last) pending = {first_row, count, column, panels.panels_of(group), c, 0};
            tile += least(2, most);
        }
    }

    // The rows of a block that are not read in place.
    void gather_pass(int64_t pass, int64_t row, int64_t rows, BFloat16* to) const {
        const int64_t whole = cut.copied ? 0 : rows / kTileHeight * kTileHeight;
        if (whole == rows) return;
        source.gather(row + whole, rows - whole, cut.begin_of(pass), cut.end_of(pass), to);
        for (int64_t r = rows - whole; r % kTileHeight; ++r)
            for (int64_t s = 0; s < cut.steps_of(pass); ++s)
                _mm512_storeu_si512(place_of(to, r, s), _mm512_setzero_si512());
    }

    void resident_block(int64_t row, int64_t rows) const {
        const int64_t apart = cut.copied ? cut.block_elements() : 0;
        if (cut.copied)
            for (int64_t pass = 0; pass < cut.passes; ++pass)
                gather_pass(pass, row, rows, a + pass * apart);
        for (int64_t group = panels.begin; group < panels.end; ++group) {
            for (int64_t pass = 0; pass < cut.passes; ++pass) {
                const bool last = pass + 1 == cut.passes;
                if (!cut.copied) gather_pass(pass, row, rows, a);
                multiply(group, pass, row, rows, a + pass * apart, sums, last ? group + 1 : group,
                         last ? 0 : pass + 1);
            }
        }
    }

    // One pass is in the block, and the sums of a chunk of groups wait for the next.
    void streaming_block(int64_t row, int64_t rows) const {
        for (int64_t begin = panels.begin; begin < panels.end; begin += cut.chunk) {
            const int64_t end = least(begin + cut.chunk, panels.end);
            for (int64_t pass = 0; pass < cut.passes; ++pass) {
                gather_pass(pass, row, rows, a);
                const bool last = pass + 1 == cut.passes;
                for (int64_t group = begin; group < end; ++group) {
                    float* to = sums + (group - begin) * cut.strip();
                    const bool again = group + 1 == end;
                    multiply(group, pass, row, rows, a, to,
                             !again ? group + 1
                             : last ? end
                                    : begin,
                             !again ? pass
                             : last ? 0
                                    : pass + 1);
                }
            }
        }
    }
};

}  // namespace pyengine::PYENGINE_NS
