#include "vq/vq_argmin.h"

#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "vq_argmin";

// Rows so few that reading the codebook in double takes less than packing it.
constexpr int64_t kFewRows = 5;

constexpr int64_t kAlign = 64;      // a cache line, which no vector is then to straddle
constexpr int64_t kKept = 4 << 20;  // bytes of scratch that a thread keeps for its next call

// Memory of the calling thread, aligned, uninitialised; null where there is none. A codebook of
// 16384 x 8 takes 144 pages and a thread's minima 100, which else would be fresh, and fault, at
// every call of a millisecond.
class Scratch {
 public:
    char* get(int64_t bytes) {
        if (bytes > size_) {
            memory_.reset(new (std::nothrow) char[static_cast<size_t>(bytes + kAlign)]);
            size_ = memory_ ? bytes : 0;
        }
        const uintptr_t address = reinterpret_cast<uintptr_t>(memory_.get());
        return memory_ ? memory_.get() + (kAlign - address % kAlign) % kAlign : nullptr;
    }
    void release() {
        if (size_ > kKept) memory_.reset(), size_ = 0;
    }

 private:
    std::unique_ptr<char[]> memory_;
    int64_t size_ = 0;
};

thread_local Scratch packed_scratch, search_scratch;

// Something near the mean of the entries: without it, an offset that all share would leave no
// digits to tell them apart. Any centre gives the same result; of at most 256 entries, this one is
// cheap.
void find_centre(const float* codebook, int64_t entries, int64_t width, bool cosine,
                 float* centre) {
    const int64_t step = (entries + 255) / 256;
    std::vector<double> sums(static_cast<size_t>(width));
    int64_t count = 0;
    for (int64_t e = 0; e < entries; e += step) {
        const float* entry = codebook + e * width;
        double square = 0;
        for (int64_t k = 0; k < width; ++k) square += static_cast<double>(entry[k]) * entry[k];
        if (!std::isfinite(square)) continue;
        const double scale = !cosine ? 1 : square > 0 ? 1 / std::sqrt(square) : 0;
        for (int64_t k = 0; k < width; ++k) sums[static_cast<size_t>(k)] += scale * entry[k];
        ++count;
    }
    for (int64_t k = 0; k < width; ++k)
        centre[k] = count ? static_cast<float>(sums[static_cast<size_t>(k)] / count) : 0.0f;
}

void search(const VqArgminArgs& args, DType dtype, int threads) {
    const auto run = table().vq_argmin[dtype];
    const int64_t panel = kVqVectors * table().lanes, width = args.width;
    const int64_t groups =
        args.packed ? (args.panels + args.group_panels - 1) / args.group_panels : 0;
    const int64_t tiles = args.packed ? kVqBlock * (width + groups * panel) : 0;  // in floats
    const int64_t bytes = 4 * tiles + 8 * (width + table().lanes + kVqBlock);
    std::atomic<bool> failed{false};
    parallel_for(args.rows, 1 + 100000 / (args.entries * width), threads,
                 [&](int64_t begin, int64_t end) {
                     char* scratch = search_scratch.get(bytes);
                     if (!scratch) return failed.store(true);
                     VqArgminArgs mine = args;
                     mine.tiles = reinterpret_cast<float*>(scratch);
                     mine.row = reinterpret_cast<double*>(scratch + 4 * tiles);
                     run(mine, begin, end);
                     search_scratch.release();
                 });
    if (failed) throw std::bad_alloc();
}

}  // namespace

void vq_argmin(const VqArgminArgs& given, DType dtype, int threads) {
    VqArgminArgs args = given;
    checked_count(kOp, args.rows, args.stride);
    checked_count(kOp, args.levels, args.entries, args.width, 2);
    checked_count(kOp, args.rows, args.levels);
    require(args.entries > 0 && args.width > 0, kOp, "an empty codebook has no nearest entry");
    require(args.stride == (args.residual ? 1 : args.levels) * args.width, kOp,
            "rows do not have the codebook's width");
    require(!(args.residual && args.cosine), kOp, "residual levels are for L2 distances");
    if (args.rows == 0 || args.levels == 0) return;
    require(args.x && args.codebook && args.indices, kOp, "null pointer");

    const int64_t panel = kVqVectors * table().lanes;
    args.packed = nullptr;
    char* packed = nullptr;
    std::vector<float> centre;
    if (args.rows > kFewRows) {
        args.panels = (args.entries + panel - 1) / panel;
        args.group_panels = (args.panels + kVqGroups - 1) / kVqGroups;
        if (args.group_panels < kVqGroupPanels) args.group_panels = kVqGroupPanels;
        const int64_t size = checked_count(kOp, args.panels, panel, args.width + 1);
        packed = packed_scratch.get(4 * size);
        if (!packed) throw std::bad_alloc();
        centre.resize(static_cast<size_t>(args.width));
    }
    for (args.level = 0; args.level < args.levels; ++args.level) {
        args.offset = args.residual ? 0 : args.level * args.width;
        if (packed) {
            const float* codebook = args.codebook + args.level * args.entries * args.width;
            find_centre(codebook, args.entries, args.width, args.cosine, centre.data());
            float* panels = reinterpret_cast<float*>(packed);
            const VqPackArgs pack{codebook,   centre.data(), args.entries,
                                  args.width, args.cosine,   panels};
            parallel_for(args.panels, 1 + 8192 / (panel * args.width), threads,
                         [&](int64_t begin, int64_t end) { table().vq_pack(pack, begin, end); });
            args.packed = panels;
            args.centre = centre.data();
        }
        search(args, dtype, threads);
    }
    packed_scratch.release();
}

}  // namespace pyengine
