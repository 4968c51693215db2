#include "activation/geglu.h"

#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

// Items are rows.
template <class T>
void geglu(const GegluArgs& args, int64_t begin, int64_t end) {
    const int64_t width = args.width;
    for (int64_t row = begin; row < end; ++row) {
        const T* value = static_cast<const T*>(args.x) + row * 2 * width;
        const T* gate = value + width;
        T* y = static_cast<T*>(args.y) + row * width;
        for_vectors(width, [&](int64_t c, auto lanes) {
            store(y + c, load(value + c, lanes) * gelu(load(gate + c, lanes)), lanes);
        });
    }
}

template void geglu<float>(const GegluArgs&, int64_t, int64_t);
template void geglu<BFloat16>(const GegluArgs&, int64_t, int64_t);
template void geglu<Float16>(const GegluArgs&, int64_t, int64_t);

}  // namespace pyengine::PYENGINE_NS
