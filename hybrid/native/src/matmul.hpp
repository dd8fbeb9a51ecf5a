// How are the weights of a quantised model multiplied with several columns at once? For processors with AVX2.
#pragma once

#include "ggml_abi.hpp"

namespace hybrid {

// Is this multiplication one of ours: quantised weights, `least_columns` columns of floats or more, nothing strided?
bool is_ours(const ggml_compute_params& params, const ggml_tensor& result, int least_columns);

// Compute it, together with the other threads of the operation, which all call this. False, for all of them, where there is no
// memory for the columns. Nothing is thrown: C code and its threads could not go on.
bool matmul(const ggml_compute_params& params, const ggml_tensor& result, const ThreadPool& pool) noexcept;

// The same of weights that ggml repacked, eight rows in turns, and columns that it quantised, four in turns: result[column][row],
// `stride` floats from column to column, of `row_count` rows from `weights` on; `length` weights a row. By one thread.
void matmul_q4_k_8x8(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) noexcept;
void matmul_q4_0_8x8(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) noexcept;

}  // namespace hybrid
