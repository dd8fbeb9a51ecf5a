// How are the weights of a quantised model multiplied with several columns at once? One version for each instruction set.
#pragma once

#include "ggml_abi.hpp"

namespace hybrid {

// Weights that ggml repacked, eight rows in turns, times columns that it quantised, four in turns: result[column][row],
// `stride` floats from column to column, of `row_count` rows from `weights` on; `length` weights a row. By one thread.
using MultiplyRepacked = void (*)(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count,
                                  int row_count) noexcept;

struct Version {
    // Is this multiplication one of ours: quantised weights, `least_columns` columns of floats or more, nothing strided?
    bool (*takes)(const ggml_compute_params& params, const ggml_tensor& result, int least_columns);
    // Compute it, together with the other threads of the operation, which all call this. False, for all of them, where there is no
    // memory for the columns. Nothing is thrown: C code and its threads could not go on.
    bool (*multiply)(const ggml_compute_params& params, const ggml_tensor& result, const ThreadPool& pool) noexcept;
    MultiplyRepacked q4_k_8x8, q4_0_8x8;
};

extern const Version avx2;  // with fused multiply-add and conversion of halves
extern const Version vnni;  // with AVX-512 (F, BW, VL) and its VNNI as well; to the bit what the other gives

}  // namespace hybrid
