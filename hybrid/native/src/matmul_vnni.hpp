// What does the multiplication do with registers of AVX-512 and VNNI? Sixteen rows at a time; one instruction adds four products of
// bytes to a sum of 32 bits, exactly, so that the sums are those of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace hybrid {
namespace {

using Floats = __m512;
using Words = __m512i;
constexpr int panel_rows = 16;

constexpr int planes_of(int) { return 1; }
constexpr int columns_of(int) { return 12; }  // a sum in integers and one in floats each, of 32 registers

inline Floats no_floats() { return _mm512_setzero_ps(); }
inline Floats floats_at(const float* at) { return _mm512_load_ps(at); }
inline Floats all_of(const float* at) { return _mm512_set1_ps(*at); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats times_and(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Floats as_floats(Words words) { return _mm512_cvtepi32_ps(words); }

inline void store_rows(float* at, Floats rows, int row_count) {
    const unsigned mask = row_count >= panel_rows ? 0xffff : (1U << row_count) - 1;
    _mm512_mask_storeu_ps(at, static_cast<__mmask16>(mask), rows);
}

// `count` groups of a block from `first` on, into 32-bit sums `out` of each column.
template <int bits, int columns, int count>
__attribute__((always_inline)) inline void dot(const uint8_t* weights, const uint8_t* numbers, int first, Words out[columns]) {
    #pragma GCC unroll 16
    for (int c = 0; c < columns; ++c) out[c] = _mm512_setzero_si512();
    #pragma GCC unroll 8
    for (int g = first; g < first + count; ++g) {
        const __m512i w = _mm512_load_si512(weights + 64 * g);
        #pragma GCC unroll 16
        for (int c = 0; c < columns; ++c) {
            int four;
            std::memcpy(&four, numbers + 4 * (g * columns + c), 4);
            out[c] = _mm512_dpbusd_epi32(out[c], w, _mm512_set1_epi32(four));
        }
    }
}

}  // namespace
}  // namespace hybrid
