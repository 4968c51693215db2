#include "vq/vq_argmin.h"

#include "isa/vector.simd.h"

// |x - c|^2 / 2 = |x|^2 / 2 + s with the score s = |c|^2 / 2 - x . c, so the nearest entry has the
// least score. Scores are taken in float32, of x and c about a common centre, with an error that is
// bounded for each row; every entry within twice the bound of the least score is a candidate, and
// among those the distance in double decides. So no score is ever stored, only minima: per row, per
// lane and per group of panels, from which a candidate's few possible indices follow.
//
// For cosine distances both sides are unit vectors, of which the same holds.
namespace pyengine::PYENGINE_NS {

namespace {

// Rows of a tile: with the vectors of a panel, what the registers hold. The tile of
// gemm/tile.simd.h stores its sums; these are only compared, in registers.
constexpr int kRows = kLanes == 16 ? 12 : 6;
constexpr int kVectors = kVqVectors;
constexpr int kPanel = kVectors * kLanes;  // entries side by side
static_assert(kVqBlock % kRows == 0);

constexpr int64_t kCacheBytes = 20480;  // of packed panels, that stay in the L1 beside a tile

typedef double Doubles __attribute__((vector_size(kLanes * 8)));

PYENGINE_INLINE Doubles doubles_of(Floats value) {
    return __builtin_convertvector(value, Doubles);
}
PYENGINE_INLINE Doubles load_doubles(const double* from) {
    Doubles value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
PYENGINE_INLINE void store_doubles(double* to, Doubles value) {
    __builtin_memcpy(to, &value, sizeof value);
}
PYENGINE_INLINE double sum_doubles(Doubles value) {
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) value[i] += value[i + width];
    return value[0];
}

PYENGINE_INLINE bool any(Ints mask) {
#if defined(__AVX512F__) && PYENGINE_LANES == 16
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__) && PYENGINE_LANES == 8
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    int32_t found = 0;
    for (int i = 0; i < kLanes; ++i) found |= mask[i];
    return found != 0;
#endif
}

PYENGINE_INLINE float least(Floats value) {
    float lanes[kLanes];
    store(lanes, value);
    float result = lanes[0];
    for (int i = 1; i < kLanes; ++i) result = lanes[i] < result ? lanes[i] : result;
    return result;
}

PYENGINE_INLINE int64_t groups_of(const VqSearch& args) {
    return args.packed ? (args.panels + args.group_panels - 1) / args.group_panels : 0;
}

// --- rows and entries ------------------------------------------------------------------------

// A row of the level in double, padded with zeros to whole vectors; returns its squared norm.
template <class T>
PYENGINE_INLINE double read_row(const VqSearch& args, int64_t row, double* out) {
    const T* x = static_cast<const T*>(args.x) + row * args.stride + args.offset;
    Doubles squares{};
    for_vectors(args.width, [&](int64_t k, auto lanes) {
        Doubles v = doubles_of(load(x + k, lanes));
        if (args.residual) {
            for (int64_t level = 0; level < args.level; ++level) {
                const int64_t chosen = args.indices[row * args.levels + level];
                v -= doubles_of(
                    load(args.codebook + (level * args.entries + chosen) * args.width + k, lanes));
            }
        }
        squares += v * v;
        store_doubles(out + k, v);
    });
    return sum_doubles(squares);
}

// The distance that decides, of a row from read_row.
template <bool Cosine>
PYENGINE_INLINE double distance(const double* row, double square, const float* entry,
                                int64_t width) {
    Doubles total{}, squares{};
    for_vectors(width, [&](int64_t k, auto lanes) {
        const Doubles c = doubles_of(load(entry + k, lanes)), x = load_doubles(row + k);
        if (Cosine) {
            total += x * c;
            squares += c * c;
        } else {
            const Doubles d = x - c;
            total += d * d;
        }
    });
    if (!Cosine) return sum_doubles(total);
    const double both = square * sum_doubles(squares);
    return both == 0 ? 1 : 1 - sum_doubles(total) / __builtin_sqrt(both);
}

// --- tiles -----------------------------------------------------------------------------------

// The minima of kRows rows, brought up to date with the scores of `count` panels.
// x: [width, kRows], negated; low: [kRows, kPanel].
template <int Width>
void tile(const float* x, const float* panel, int64_t count, int64_t any_width, float* low) {
    const int64_t width = Width ? Width : any_width;
    for (int64_t p = 0; p < count; ++p) {
        Floats score[kRows][kVectors];
        for (int v = 0; v < kVectors; ++v) {
            const Floats half_square = load(panel + v * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) score[r][v] = half_square;
        }
        panel += kPanel;
#pragma GCC unroll 8
        for (int64_t k = 0; k < width; ++k, panel += kPanel) {
            const Floats first = load(panel), second = load(panel + kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const Floats value = splat(x[k * kRows + r]);
                score[r][0] = fma(value, first, score[r][0]);
                score[r][1] = fma(value, second, score[r][1]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v) {
                float* at = low + r * kPanel + v * kLanes;
                store(at, at_most(load(at), score[r][v]));  // in this order NaN is never less
            }
    }
}

// All rows of a block against all panels; low: [groups, rows, kPanel].
void search(const VqSearch& args, const float* x, int64_t rows, float* low) {
    const int64_t width = args.width, bytes = (width + 1) * kPanel * 4;
    const int64_t chunk = bytes < kCacheBytes ? kCacheBytes / bytes : 1;
    const auto run = width == 4 ? tile<4> : width == 8 ? tile<8> : width == 16 ? tile<16> : tile<0>;
    for (int64_t begin = 0; begin < args.panels; begin += args.group_panels) {
        const int64_t left = args.panels - begin;
        const int64_t end = begin + (left < args.group_panels ? left : args.group_panels);
        for (int64_t i = 0; i < rows * kPanel; i += kLanes) store(low + i, splat(__builtin_inff()));
        for (int64_t p = begin; p < end; p += chunk) {
            const float* panel = args.packed + p * (width + 1) * kPanel;
            for (int64_t r = 0; r < rows; r += kRows)
                run(x + r * width, panel, end - p < chunk ? end - p : chunk, width,
                    low + r * kPanel);
        }
        low += rows * kPanel;
    }
}

// --- from minima to an index -----------------------------------------------------------------

// Twice the largest error that the score of an entry can have which is the nearest or seems so, and
// `low` of which is the least score; norm: of the centred row.
//
// The entry lies within R of the centre, where the score R^2/2 - |x| R of the farthest such is low.
// Each of its terms was rounded at most width + 5 times; 8 covers the rest. What the error itself
// does to R is of the order of its root.
PYENGINE_INLINE double twice_the_error(double low, double norm, int64_t width) {
    const double unit = (static_cast<double>(width) + 8) * 0x1p-24;
    const double inner = norm * norm + 2 * low;
    const double reach =
        (norm + __builtin_sqrt(inner > 0 ? inner : 0)) * (1 + unit + 3 * __builtin_sqrt(unit));
    return 2.02 * unit * (reach * reach / 2 + norm * reach);
}

template <class T, bool Cosine>
void decide(const VqSearch& args, int64_t row, double norm, const float* low, int64_t rows,
            double* buffer) {
    const double square = read_row<T>(args, row, buffer);
    const float* codebook = args.codebook + args.level * args.entries * args.width;
    double nearest = __builtin_inf();
    int64_t index = 0;
    const auto consider = [&](int64_t entry) {
        const double d =
            distance<Cosine>(buffer, square, codebook + entry * args.width, args.width);
        if (d < nearest || (d == nearest && entry < index)) nearest = d, index = entry;  // no NaN
    };
    const int64_t groups = groups_of(args), stride = rows * kPanel;
    Floats lowest = splat(__builtin_inff());
    for (int64_t g = 0; g < groups; ++g)
        for (int v = 0; v < kVectors; ++v)
            lowest = at_most(lowest, load(low + g * stride + v * kLanes));
    const double least_score = least(lowest);
    // Beyond these, and for rows with NaN or infinities, no bound holds: products overflow.
    if (groups && norm < 1e18 && least_score < 1e36) {
        const double limit = least_score + twice_the_error(least_score, norm, args.width);
        const float bound = static_cast<float>(limit + 0x1p-22 * __builtin_fabs(limit));
        for (int64_t g = 0; g < groups; ++g, low += stride) {
            if (!any((load(low) <= splat(bound)) | (load(low + kLanes) <= splat(bound)))) continue;
            const int64_t begin = g * args.group_panels, left = args.panels - begin;
            const int64_t end = begin + (left < args.group_panels ? left : args.group_panels);
            const int64_t entries = end * kPanel < args.entries ? end * kPanel : args.entries;
            for (int64_t lane = 0; lane < kPanel; ++lane)
                if (low[lane] <= bound)
                    for (int64_t e = begin * kPanel + lane; e < entries; e += kPanel) consider(e);
        }
    } else {
        for (int64_t e = 0; e < args.entries; ++e) consider(e);
    }
    args.indices[row * args.levels + args.level] = index;
    if (!args.distances) return;
    if (nearest == __builtin_inf())  // as far as the first entry is, or NaN
        nearest = distance<Cosine>(buffer, square, codebook, args.width);
    args.distances[row * args.levels + args.level] = static_cast<float>(nearest);
}

// The centred row, negated, into its column of a tile; returns its norm.
PYENGINE_INLINE double centre_row(const VqSearch& args, const double* row, double square,
                                  float* out) {
    const double scale = !args.cosine ? 1 : square > 0 ? 1 / __builtin_sqrt(square) : 0;
    double total = 0;
    for (int64_t k = 0; k < args.width; ++k) {
        const double v = scale * row[k] - args.centre[k];
        total += v * v;
        out[k * kRows] = static_cast<float>(-v);
    }
    return __builtin_sqrt(total);
}

}  // namespace

// Items are rows.
template <class T>
void vq_argmin(const VqSearch& args, int64_t begin, int64_t end) {
    const int64_t groups = groups_of(args);
    double *buffer = args.row, *norms = buffer + args.width + kLanes;
    float *x = args.tiles, *low = x + (groups ? kVqBlock * args.width : 0);
    // Narrow rows leave time for little else than their minima, which must stay in the L2.
    const int64_t block = args.width < 32 ? kVqBlock / 2 : kVqBlock;
    // Blocks of about the same size, in whole tiles.
    const int64_t blocks = (end - begin + block - 1) / block;
    const int64_t tiles = ((end - begin + blocks - 1) / blocks + kRows - 1) / kRows;
    for (int64_t first = begin; first < end; first += tiles * kRows) {
        const int64_t left = end - first, count = left < tiles * kRows ? left : tiles * kRows;
        const int64_t rows = (count + kRows - 1) / kRows * kRows;
        if (groups) {
            for (int64_t r = 0; r < rows; ++r) {
                float* out = x + r / kRows * kRows * args.width + r % kRows;
                if (r < count) {
                    const double square = read_row<T>(args, first + r, buffer);
                    norms[r] = centre_row(args, buffer, square, out);
                } else {
                    for (int64_t k = 0; k < args.width; ++k) out[k * kRows] = 0;
                }
            }
            search(args, x, rows, low);
        }
        for (int64_t r = 0; r < count; ++r)
            args.cosine
                ? decide<T, true>(args, first + r, norms[r], low + r * kPanel, rows, buffer)
                : decide<T, false>(args, first + r, norms[r], low + r * kPanel, rows, buffer);
    }
}

// Items are panels. Entries that are not finite, and those that fill up the last panel, get an
// infinite score.
void vq_pack(const VqPackArgs& args, int64_t begin, int64_t end) {
    const int64_t width = args.width;
    for (int64_t p = begin; p < end; ++p) {
        float* halves = args.packed + p * (width + 1) * kPanel;
        float* panel = halves + kPanel;
        float extra[kPanel];
        for (int64_t lane = 0; lane < kPanel; ++lane) {
            const int64_t e = p * kPanel + lane;
            extra[lane] = e < args.entries ? 0 : __builtin_inff();
            const float* entry = args.codebook + (e < args.entries ? e : 0) * width;
            if (args.cosine) {
                double square = 0;
                for (int64_t k = 0; k < width; ++k)
                    square += static_cast<double>(entry[k]) * entry[k];
                const double scale = square > 0 ? 1 / __builtin_sqrt(square) : 0;
                // Zero is at a right angle to everything, where |x - c|^2 / 2 is 1, not 1/2.
                if (!(square > 0)) extra[lane] += 0.5f;
                for (int64_t k = 0; k < width; ++k)
                    panel[k * kPanel + lane] =
                        static_cast<float>(scale * entry[k] - args.centre[k]);
            } else {
                for (int64_t k = 0; k < width; ++k)
                    panel[k * kPanel + lane] = entry[k] - args.centre[k];
            }
        }
        for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
            Doubles squares{};
            for (int64_t k = 0; k < width; ++k) {
                const Doubles v = doubles_of(load(panel + k * kPanel + lane));
                squares += v * v;
            }
            const Floats half = __builtin_convertvector(squares * 0.5, Floats);
            store(halves + lane, half + load(extra + lane));
        }
        for (int64_t lane = 0; lane < kPanel; ++lane) {
            if (halves[lane] < __builtin_inff()) continue;
            halves[lane] = __builtin_inff();
            for (int64_t k = 0; k < width; ++k) panel[k * kPanel + lane] = 0;
        }
    }
}

PYENGINE_INSTANTIATE(vq_argmin, PYENGINE_RANGE(VqSearch));

}  // namespace pyengine::PYENGINE_NS
