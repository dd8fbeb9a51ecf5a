// How do eight rows become a panel? Codes of each row, whose words then change places.
#pragma once

#include "matmul_weights.hpp"

namespace hybrid {
namespace {

inline void store(const __m256i rows[eight], uint8_t* out) {
    __m256i groups[8];
    transpose(rows, groups);
    for (int g = 0; g < 8; ++g) _mm256_store_si256(reinterpret_cast<__m256i*>(out) + g, groups[g]);
}

// The codes of block `sub` of each row, into a block of a panel.
template <class Format>
inline void store_codes(const Rows& rows, int sub, uint8_t* panel) {
    __m256i codes[eight], high[eight];
    for (int r = 0; r < eight; ++r) codes[r] = Format::codes(rows.at[r], sub);
    if constexpr (Format::planes == 2) {
        for (int r = 0; r < eight; ++r) {
            high[r] = low_nibbles(_mm256_srli_epi16(codes[r], 4));
            codes[r] = low_nibbles(codes[r]);
        }
        store(high, panel + panel_rows * block_length);
    }
    store(codes, panel);
}

// The rows of a panel from `first` on, `row_bytes` apart, in `block_count` blocks. Of fewer than eight the last stands for those that
// are not there.
template <class Format>
void unpack(const uint8_t* first, size_t row_bytes, int row_count, int block_count, uint8_t* panel) {
    Rows rows;
    for (int r = 0; r < eight; ++r) rows.at[r] = first + std::min(r, row_count - 1) * row_bytes;
    for (int b = 0; b < block_count; b += Format::blocks) {
        __m256 scale[Format::blocks * Format::scales], shift[Format::blocks * Format::scales];
        Format::scale(rows, scale, shift);
        #pragma GCC unroll 8
        for (int sub = 0; sub < Format::blocks; ++sub) {
            store_codes<Format>(rows, sub, panel);
            float* const numbers = reinterpret_cast<float*>(panel + panel_rows * block_length * Format::planes);
            for (int s = 0; s < Format::scales; ++s) {
                _mm256_store_ps(numbers + panel_rows * s, scale[sub * Format::scales + s]);
                _mm256_store_ps(numbers + panel_rows * (Format::scales + s), shift[sub * Format::scales + s]);
            }
            panel += Format::panel_bytes;
        }
        for (int r = 0; r < eight; ++r) rows.at[r] += Format::bytes;
    }
}

}  // namespace
}  // namespace hybrid
