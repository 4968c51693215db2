#include "activation/geglu.h"

#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Items are rows.
template <class T, class Activate>
PYENGINE_INLINE void gated(const GegluArgs& args, int64_t begin, int64_t end,
                           const Activate& activate) {
    const int64_t width = args.width;
    for (int64_t row = begin; row < end; ++row) {
        const T* value = static_cast<const T*>(args.x) + row * 2 * width;
        const T* gate = value + width;
        T* y = static_cast<T*>(args.y) + row * width;
        for_vectors(width, [&](int64_t c, auto lanes) {
            store(y + c, load(value + c, lanes) * activate(load(gate + c, lanes)), lanes);
        });
    }
}

}  // namespace

template <class T>
void geglu(const GegluArgs& args, int64_t begin, int64_t end) {
    gated<T>(args, begin, end, [](Floats gate) { return gelu(gate); });
}

template <class T>
void swiglu(const GegluArgs& args, int64_t begin, int64_t end) {
    gated<T>(args, begin, end, [](Floats gate) { return silu(gate); });
}

PYENGINE_INSTANTIATE(geglu, PYENGINE_RANGE(GegluArgs));
PYENGINE_INSTANTIATE(swiglu, PYENGINE_RANGE(GegluArgs));

}  // namespace pyengine::PYENGINE_NS
