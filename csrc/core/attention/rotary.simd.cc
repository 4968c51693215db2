#include "attention/rotary.h"

#include "attention/slots.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

template <class T, class Y>
PYENGINE_INLINE void turn(const T* x, const float* cosines, const float* sines, int64_t half,
                          Y* y) {
    for_vectors(half, [&](int64_t c, auto lanes) {
        const Floats a = load(x + c, lanes), b = load(x + half + c, lanes);
        const Floats cosine = load(cosines + c, lanes), sine = load(sines + c, lanes);
        store(y + c, fma(a, cosine, -(b * sine)), lanes);
        store(y + half + c, fma(b, cosine, a * sine), lanes);
    });
}

template <class T, class Y>
void rows(const RotaryArgs& args, int64_t begin, int64_t end) {
    const int64_t half = args.width / 2;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t picture = item / args.rows, row = item % args.rows;
        const int64_t position =
            args.positions ? args.positions[item] : args.lengths[picture] + row;
        const int64_t place = args.into_cache ? position : row;
        const int64_t target = args.into_cache ? slot_of(args.slots, picture) : picture;
        const T* x = static_cast<const T*>(args.x) + picture * args.x_picture + row * args.x_row;
        Y* y = static_cast<Y*>(args.y) + target * args.y_picture + place * args.y_row;
        if (!args.cosines) {
            for_vectors(args.heads * args.width,
                        [&](int64_t c, auto lanes) { store(y + c, load(x + c, lanes), lanes); });
            continue;
        }
        for (int64_t head = 0; head < args.heads; ++head)
            turn(x + head * args.width, args.cosines + position * half,
                 args.sines + position * half, half, y + head * args.width);
    }
}

}  // namespace

// Items are rows of all pictures.
template <class T>
void rotary(const RotaryArgs& args, int64_t begin, int64_t end) {
    with_type(args.y_dtype, [&](auto y) { rows<T, decltype(y)>(args, begin, end); });
}

PYENGINE_INSTANTIATE(rotary, PYENGINE_RANGE(RotaryArgs));

}  // namespace pyengine::PYENGINE_NS
