// Products of activations and packed weights, with what surrounds them in a network.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

enum class Activation : int {
    none = 0,
    silu = 1,
    gelu = 2,
    quick_gelu = 3,
    geglu = 4,
    gelu_tanh = 5,
    geglu_tanh = 6,
};
constexpr int kActivations = 7;

// Whether the outputs come in pairs: a value, and a gate whose activation multiplies it.
constexpr bool is_gated(Activation activation) {
    return activation == Activation::geglu || activation == Activation::geglu_tanh;
}

// y = gate * activation(prologue(x | x2) W + bias + addend) + residual, where prologue(x) = x *
// scale + shift, then SiLU, each if asked for. x, x2, addend, residual and y have one dtype, the
// weight one of its own; int8 weights are numbers that weight_scale makes weights of, one scale for
// each output. "geglu" below stands for every gated activation.
struct LinearArgs {
    const void* x;   // [rows, channels]
    const void* x2;  // [rows, channels2], side by side with x; or null with channels2 = 0
    int64_t rows, channels, channels2;
    const void* weight;  // panels [ceil(outputs / 16)][channels + channels2][16]; for geglu twice
                         // as many, first the values', then the gates'
    DType weight_dtype;
    const float* weight_scale;  // [outputs], for geglu [2 * outputs]: of int8 weights; else null
    const float* bias;          // [outputs], for geglu [2 * outputs]; or null
    const float* scale;  // [rows / picture_rows, channels + channels2], or null as shift then is
    const float* shift;
    int64_t picture_rows;  // rows that share scale, shift and gate; 1 or more
    bool silu;
    const void* addend;  // [rows, outputs], for geglu [rows, 2 * outputs]; or null
    Activation activation;
    const float* gate;     // [rows / picture_rows, outputs], or null
    const void* residual;  // [rows, outputs], or null; may be y itself
    void* y;               // [rows, outputs]
    int64_t outputs;
    DType dtype;
};

// What one thread does of it: some rows and some units of outputs. A unit is two panels; for geglu
// a panel of values and one of gates.
struct LinearShare {
    int64_t row_begin, row_end, unit_begin, unit_end;
};

// Throws std::invalid_argument for sizes and pointers that cannot be, std::bad_alloc where memory
// is short: per thread and call at most 2.1 MB.
void linear(const LinearArgs& args, int threads);

}  // namespace pyengine
