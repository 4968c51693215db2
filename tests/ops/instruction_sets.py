"""The instruction sets of our C++ that tests run over, each where the machine has it."""

#: wide16: the code for 16 lanes in AVX2 instructions, so that any x86 tests AVX-512's logic.
ISAS = ("portable", "avx2", "avx512", "avx512_bf16", "amx_bf16", "wide16")

#: What multiplies int8: csrc/core/gemm/product_int8.simd.cc, compiled once for each.
PRODUCTS = ("int8_portable", "int8_avx2", "int8_avx_vnni", "int8_avx512_vnni", "int8_amx")
