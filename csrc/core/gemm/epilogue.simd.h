// What linear does with the sums of its products: bias, addend, activation, gate, residual.
#pragma once

#include "gemm/linear.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// The functions for results of type T; one that is rounded to fewer bits may have its own.
template <class T>
struct ActivationsOf {
    PYENGINE_INLINE Floats silu(Floats x) { return PYENGINE_NS::silu(x); }
    PYENGINE_INLINE Floats gelu(Floats x) { return PYENGINE_NS::gelu(x); }
    PYENGINE_INLINE Floats quick_gelu(Floats x) { return PYENGINE_NS::quick_gelu(x); }
    PYENGINE_INLINE Floats gelu_tanh(Floats x) { return PYENGINE_NS::gelu_tanh(x); }
};

// The activation of a value, or of the gate that multiplies it.
template <Activation Chosen, class T>
PYENGINE_INLINE Floats activate(Floats value) {
    using Of = ActivationsOf<T>;
    if constexpr (Chosen == Activation::silu) return Of::silu(value);
    if constexpr (Chosen == Activation::gelu || Chosen == Activation::geglu) return Of::gelu(value);
    if constexpr (Chosen == Activation::quick_gelu) return Of::quick_gelu(value);
    if constexpr (Chosen == Activation::gelu_tanh || Chosen == Activation::geglu_tanh)
        return Of::gelu_tanh(value);
    return value;
}

// One or more vectors of each row. sums: the first row's, `stride` floats to the next; where the
// activation is gated the gates lie a panel further on. Joined: whether there is an addend or a
// gate (args.gate); compiled apart, so that the loop without them tests for neither.
template <Activation Chosen, bool Joined, int Vectors, class T, class Lanes>
PYENGINE_INLINE void finish_vectors(const LinearArgs& args, int64_t row, int64_t rows,
                                    int64_t column, const float* sums, int64_t stride,
                                    Lanes lanes) {
    constexpr bool kGated = is_gated(Chosen);
    const T* residual = static_cast<const T*>(args.residual);
    const T* addend = Joined ? static_cast<const T*>(args.addend) : nullptr;
    T* y = static_cast<T*>(args.y);
    Floats bias[Vectors] = {}, gate_bias[Vectors] = {};
    for (int v = 0; v < Vectors && args.bias; ++v) {
        bias[v] = load(args.bias + column + v * kLanes, lanes);
        if (kGated) gate_bias[v] = load(args.bias + args.outputs + column + v * kLanes, lanes);
    }
    for (int64_t r = 0; r < rows; ++r, sums += stride) {
        const float* gate = nullptr;
        if (Joined && args.gate)
            gate = args.gate + (row + r) / args.picture_rows * args.outputs + column;
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) {
            const int64_t c = column + v * kLanes, at = (row + r) * args.outputs + c;
            Floats value = load(sums + v * kLanes) + bias[v];
            if (kGated) {
                Floats beside = load(sums + kPanel + v * kLanes) + gate_bias[v];
                if (addend) {
                    const T* from = addend + (row + r) * 2 * args.outputs + c;
                    value += load(from, lanes);
                    beside += load(from + args.outputs, lanes);
                }
                value *= activate<Chosen, T>(beside);
            } else {
                if (addend) value += load(addend + at, lanes);
                value = activate<Chosen, T>(value);
            }
            if (gate) value *= load(gate + v * kLanes, lanes);
            if (residual) value += load(residual + at, lanes);
            store(y + at, value, lanes);
        }
    }
}

// Some panels of each row; whole ones a row at a time, since that is a cache line of y.
template <Activation Chosen, bool Joined, class T>
void finish(const LinearArgs& args, int64_t row, int64_t rows, int64_t column, int64_t panels,
            const float* sums, int64_t stride) {
    const int64_t most = is_gated(Chosen) ? kPanel : panels * kPanel;
    const int64_t width = least(args.outputs - column, most);
    int64_t c = 0;
    for (; c + kPanel <= width; c += kPanel)
        finish_vectors<Chosen, Joined, kPanelVectors, T>(args, row, rows, column + c, sums + c,
                                                         stride, Whole{});
    for_vectors(width - c, [&](int64_t i, auto lanes) {
        finish_vectors<Chosen, Joined, 1, T>(args, row, rows, column + c + i, sums + c + i, stride,
                                             lanes);
    });
}

using Finish = void (*)(const LinearArgs&, int64_t row, int64_t rows, int64_t column,
                        int64_t panels, const float* sums, int64_t stride);

template <bool Joined, class T>
Finish finish_for(Activation activation) {
    switch (activation) {
        case Activation::none:
            return finish<Activation::none, Joined, T>;
        case Activation::silu:
            return finish<Activation::silu, Joined, T>;
        case Activation::gelu:
            return finish<Activation::gelu, Joined, T>;
        case Activation::quick_gelu:
            return finish<Activation::quick_gelu, Joined, T>;
        case Activation::gelu_tanh:
            return finish<Activation::gelu_tanh, Joined, T>;
        case Activation::geglu:
            return finish<Activation::geglu, Joined, T>;
        case Activation::geglu_tanh:
            break;
    }
    return finish<Activation::geglu_tanh, Joined, T>;
}

template <class T>
Finish finish_for(const LinearArgs& args) {
    return args.addend || args.gate ? finish_for<true, T>(args.activation)
                                    : finish_for<false, T>(args.activation);
}

}  // namespace pyengine::PYENGINE_NS
