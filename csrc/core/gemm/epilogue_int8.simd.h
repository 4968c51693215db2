// What linear does with sums of int8 products: scales, bias, addend, activation, gate, residual, of
// a few rows and two panels, which stay in the first-level cache between the passes.
#pragma once

#include "gemm/linear_int8.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/round_int8.simd.h"
#include "panel.h"

namespace pyengine::PYENGINE_NS {

// Rows [place, place + rows) of the work, outputs from `column` on. sums: their whole numbers, rows
// kInt8Columns apart; overwritten.
using FinishInt8 = void (*)(const LinearInt8Work& work, int64_t place, int64_t rows, int64_t column,
                            int32_t* sums);

// (sum * weight's scale) * row's scale + bias, where the bias may be absent.
template <class Lanes>
PYENGINE_INLINE Floats scaled(const int32_t* sum, Floats factor, float row_scale, const float* bias,
                              Lanes lanes) {
    const Floats value = floats_at(sum) * factor * splat(row_scale);
    return bias ? value + load(bias, lanes) : value;
}

// The scales, the bias and, of outputs without activation, addend and gate, the residual.
template <class T>
void finish_plain(const LinearInt8Work& work, int64_t place, int64_t rows, int64_t column,
                  const int32_t* sums) {
    const LinearArgs& args = work.args;
    const T* residual = static_cast<const T*>(args.residual);
    T* y = static_cast<T*>(args.y);
    for_vectors(least(args.outputs - column, kInt8Columns), [&](int64_t c, auto lanes) {
        const Floats factor = load(args.weight_scale + column + c, lanes);
        const float* bias = args.bias ? args.bias + column + c : nullptr;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t at = (work.row + place + r) * args.outputs + column + c;
            Floats value =
                scaled(sums + r * kInt8Columns + c, factor, work.row_scale[place + r], bias, lanes);
            if (residual) value += load(residual + at, lanes);
            store(y + at, value, lanes);
        }
    });
}

// Scales, bias and addend of `width` outputs from `output` on, at most a panel where gated.
template <class T>
void scale_int8(const LinearInt8Work& work, int64_t place, int64_t rows, int64_t output,
                int64_t width, int32_t* sums) {
    const LinearArgs& args = work.args;
    const int64_t all = is_gated(args.activation) ? 2 * args.outputs : args.outputs;
    const T* addend = static_cast<const T*>(args.addend);
    for_vectors(width, [&](int64_t c, auto lanes) {
        const Floats factor = load(args.weight_scale + output + c, lanes);
        const float* bias = args.bias ? args.bias + output + c : nullptr;
        for (int64_t r = 0; r < rows; ++r) {
            int32_t* at = sums + r * kInt8Columns + c;
            Floats value = scaled(at, factor, work.row_scale[place + r], bias, lanes);
            if (addend) value += load(addend + (work.row + place + r) * all + output + c, lanes);
            store(reinterpret_cast<float*>(at), value);
        }
    });
}

// The activation of each, or of the gates that lie a panel further on and multiply them.
template <Activation Chosen>
void activate_int8(float* values, int64_t rows, int64_t width) {
    constexpr bool kGated = is_gated(Chosen);
    for (int64_t r = 0; r < rows; ++r, values += kInt8Columns)
        for (int64_t c = 0; c < width; c += kLanes) {
            Floats value = load(values + c), x = kGated ? load(values + kPanel + c) : value;
            if constexpr (Chosen == Activation::silu) x = silu(x);
            if constexpr (Chosen == Activation::gelu || Chosen == Activation::geglu) x = gelu(x);
            if constexpr (Chosen == Activation::quick_gelu) x = quick_gelu(x);
            if constexpr (Chosen == Activation::gelu_tanh || Chosen == Activation::geglu_tanh)
                x = gelu_tanh(x);
            store(values + c, kGated ? value * x : x);
        }
}

static inline void activate_int8(Activation activation, float* values, int64_t rows,
                                 int64_t width) {
    switch (activation) {
        case Activation::none:
            return;
        case Activation::silu:
            return activate_int8<Activation::silu>(values, rows, width);
        case Activation::gelu:
            return activate_int8<Activation::gelu>(values, rows, width);
        case Activation::quick_gelu:
            return activate_int8<Activation::quick_gelu>(values, rows, width);
        case Activation::gelu_tanh:
            return activate_int8<Activation::gelu_tanh>(values, rows, width);
        case Activation::geglu:
            return activate_int8<Activation::geglu>(values, rows, width);
        case Activation::geglu_tanh:
            return activate_int8<Activation::geglu_tanh>(values, rows, width);
    }
}

// Gate and residual.
template <class T>
void join_int8(const LinearInt8Work& work, int64_t place, int64_t rows, int64_t column,
               int64_t width, const float* values) {
    const LinearArgs& args = work.args;
    const T* residual = static_cast<const T*>(args.residual);
    T* y = static_cast<T*>(args.y);
    for_vectors(width, [&](int64_t c, auto lanes) {
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t row = work.row + place + r, at = row * args.outputs + column + c;
            Floats value = load(values + r * kInt8Columns + c);
            if (args.gate)
                value *=
                    load(args.gate + row / args.picture_rows * args.outputs + column + c, lanes);
            if (residual) value += load(residual + at, lanes);
            store(y + at, value, lanes);
        }
    });
}

template <class T>
void finish_int8(const LinearInt8Work& work, int64_t place, int64_t rows, int64_t column,
                 int32_t* sums) {
    const LinearArgs& args = work.args;
    if (args.activation == Activation::none && !args.addend && !args.gate)
        return finish_plain<T>(work, place, rows, column, sums);
    const bool gated = is_gated(args.activation);
    const int64_t width = least(args.outputs - column, gated ? kPanel : kInt8Columns);
    scale_int8<T>(work, place, rows, column, width, sums);
    if (gated) scale_int8<T>(work, place, rows, args.outputs + column, width, sums + kPanel);
    float* values = reinterpret_cast<float*>(sums);
    activate_int8(args.activation, values, rows, width);
    join_int8<T>(work, place, rows, column, width, values);
}

}  // namespace pyengine::PYENGINE_NS
