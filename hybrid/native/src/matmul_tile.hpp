// How are the rows of a panel multiplied with a few columns? In integers, a block at a time, every register in use.
#pragma once

#include "matmul_weights.hpp"

namespace hybrid {
namespace {

constexpr float least_block = 1e-30F;  // a block of smaller numbers is one of zeros: 127 divided by them may be infinite

// 32 floats of a column as codes of -127 to 127: [group of 4][column][4], then [scale][column], then [sum][column].
template <class Format>
void quantise(const float* from, int column, int columns, uint8_t* block) {
    __m256 x[4];
    __m256i largest = _mm256_setzero_si256();  // as bits: NaN is larger than all, and stays
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_loadu_ps(from + 8 * i);
        largest = _mm256_max_epi32(largest, _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x[i])));
    }
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    const float most = _mm_cvtss_f32(_mm_castsi128_ps(four));
    const float scale = most / 127;
    const __m256 inverse = _mm256_set1_ps(most > least_block ? 127 / most : 0);
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) whole[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
    float* const scales = reinterpret_cast<float*>(block + block_length * columns);
    scales[column] = scale;
    for (int s = 0; s < Format::scales; ++s) {
        __m256i sum = _mm256_add_epi32(whole[2 * s], whole[2 * s + 1]);
        if (Format::scales == 1) sum = _mm256_add_epi32(sum, _mm256_add_epi32(whole[2], whole[3]));
        __m128i part = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        part = _mm_add_epi32(part, _mm_shuffle_epi32(part, 0x4e));
        part = _mm_add_epi32(part, _mm_shuffle_epi32(part, 0xb1));
        scales[columns * (1 + s) + column] = scale * static_cast<float>(_mm_cvtsi128_si32(part));
    }
    const __m256i sixteen = _mm256_packs_epi32(whole[0], whole[1]), rest = _mm256_packs_epi32(whole[2], whole[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(sixteen, rest), order);
    alignas(32) uint32_t groups[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(groups), bytes);
    for (int g = 0; g < 8; ++g) std::memcpy(block + 4 * (g * columns + column), &groups[g], 4);
}

// result[column][row] of one panel and one tile: float sums over the blocks.
template <class Format, int columns>
void multiply(const uint8_t* panel, const uint8_t* tile, int block_count, float* result, size_t stride, int row_count) {
    constexpr int parts = Format::scales;
    Floats total[columns];
    #pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) total[c] = no_floats();
    for (int b = 0; b < block_count; ++b) {
        const float* const scale = reinterpret_cast<const float*>(panel + panel_rows * block_length * Format::planes);
        const float* const numbers = reinterpret_cast<const float*>(tile + block_length * columns);
        #pragma GCC unroll 2
        for (int p = 0; p < parts; ++p) {
            Words sums[columns];
            dot<Format::bits, columns, 8 / parts>(panel, tile, p * (8 / parts), sums);
            const Floats of_rows = floats_at(scale + p * panel_rows), shift = floats_at(scale + (parts + p) * panel_rows);
            #pragma GCC unroll 16
            for (int c = 0; c < columns; ++c) {
                const Floats both = times(of_rows, all_of(numbers + c));
                total[c] = times_and(as_floats(sums[c]), both, total[c]);
                total[c] = times_and(shift, all_of(numbers + columns * (1 + p) + c), total[c]);
            }
        }
        panel += Format::panel_bytes;
        tile += Format::column_bytes * columns;
    }
    #pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) store_rows(result + c * stride, total[c], row_count);
}

}  // namespace
}  // namespace hybrid
