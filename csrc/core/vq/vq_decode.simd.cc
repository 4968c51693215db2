#include "vq/vq_decode.h"

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

constexpr int64_t kTerms = 16;  // of a sum that are added before they join it: smaller errors

// One row's entries in float32, side by side or added up.
template <class T>
void gather(const VqDecodeWork& args, const int64_t* indices, float* out) {
    for (int64_t level = 0; level < args.levels; ++level) {
        const T* entry = static_cast<const T*>(args.codebook) +
                         (level * args.entries + indices[level]) * args.width;
        for_vectors(args.width, [&](int64_t k, auto lanes) {
            const Floats v = load(entry + k, lanes);
            store(out + k, args.residual && level ? load(out + k, lanes) + v : v, lanes);
        });
        if (!args.residual) out += args.width;
    }
}

}  // namespace

// Items are rows.
template <class T>
void vq_decode(const VqDecodeWork& args, int64_t begin, int64_t end) {
    const int64_t inputs = (args.residual ? 1 : args.levels) * args.width;
    const float* x = args.gathered;
    for (int64_t row = begin; row < end; ++row) {
        T* y = static_cast<T*>(args.y) + row * args.outputs;
        gather<T>(args, args.indices + row * args.levels, args.gathered);
        for_vectors(args.outputs, [&](int64_t o, auto lanes) {
            if (!args.weight) return store(y + o, load(x + o, lanes), lanes);
            Floats sum = args.bias ? load(args.bias + o, lanes) : Floats{};
            for (int64_t first = 0; first < inputs; first += kTerms) {
                const int64_t last = first + kTerms < inputs ? first + kTerms : inputs;
                Floats terms{};
                for (int64_t k = first; k < last; ++k)
                    terms =
                        fma(splat(x[k]), load(args.weight + k * args.outputs + o, lanes), terms);
                sum += terms;
            }
            store(y + o, sum, lanes);
        });
    }
}

PYENGINE_INSTANTIATE(vq_decode, PYENGINE_RANGE(VqDecodeWork));

}  // namespace pyengine::PYENGINE_NS
