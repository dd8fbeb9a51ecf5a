// What does the multiplication do with registers of AVX2? Eight rows at a time; products of bytes are added in 16 bits, then in 32.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace hybrid {
namespace {  // and so all that both versions compile: under one name, the linker would take either's for both

using Floats = __m256;
using Words = __m256i;
constexpr int panel_rows = 8;  // the lanes of a register of 32-bit numbers

constexpr int planes_of(int bits) { return bits == 8 ? 2 : 1; }  // codes of eight bits are kept as low and high halves

// Columns that are computed together: as many as registers hold.
constexpr int columns_of(int bits) { return bits == 4 ? 6 : 4; }

inline Floats no_floats() { return _mm256_setzero_ps(); }
inline Floats floats_at(const float* at) { return _mm256_load_ps(at); }
inline Floats all_of(const float* at) { return _mm256_broadcast_ss(at); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats times_and(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Floats as_floats(Words words) { return _mm256_cvtepi32_ps(words); }

inline void store_rows(float* at, Floats rows, int row_count) {
    if (row_count >= panel_rows) {
        _mm256_storeu_ps(at, rows);
    } else {
        alignas(32) float all[panel_rows];
        _mm256_store_ps(all, rows);
        std::memcpy(at, all, row_count * sizeof(float));
    }
}

// The sum so far stays in its register: reordered into a tree, the sums of a block need more registers than there are.
__attribute__((always_inline)) inline void keep(__m256i& sum) { asm("" : "+x"(sum)); }

template <int columns>
struct Sums {
    __m256i lanes[columns];
    __attribute__((always_inline)) void clear() {
        for (int c = 0; c < columns; ++c) lanes[c] = _mm256_setzero_si256();
    }
    // Products of 4 weights a row and 4 numbers a column, pairs of which are added in 16 bits.
    __attribute__((always_inline)) void add(const uint8_t* weights, const uint8_t* numbers, int group) {
        const __m256i w = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights) + group);
        for (int c = 0; c < columns; ++c) {
            int four;
            std::memcpy(&four, numbers + 4 * (group * columns + c), 4);
            lanes[c] = _mm256_add_epi16(lanes[c], _mm256_maddubs_epi16(w, _mm256_set1_epi32(four)));
            keep(lanes[c]);
        }
    }
};

// `count` groups of a block from `first` on, into 32-bit sums `out` of each column.
template <int all_bits, int columns, int count>
__attribute__((always_inline)) inline void dot(const uint8_t* weights, const uint8_t* numbers, int first, Words out[columns]) {
    // maddubs adds two products of code and number, so 2 * (2^bits - 1) * 127 each: 8, 4, 2 of them fit 16 bits.
    constexpr int bits = all_bits == 8 ? 4 : all_bits;
    constexpr int fit = std::min(count, bits == 4 ? 8 : bits == 5 ? 4 : 2);
    const __m256i ones = _mm256_set1_epi16(1);
    Sums<columns> sums;
    #pragma GCC unroll 4
    for (int start = 0; start < count; start += fit) {
        sums.clear();
        #pragma GCC unroll 8
        for (int g = 0; g < fit; ++g) sums.add(weights, numbers, first + start + g);
        for (int c = 0; c < columns; ++c) {
            const __m256i wide = _mm256_madd_epi16(sums.lanes[c], ones);
            out[c] = start == 0 ? wide : _mm256_add_epi32(out[c], wide);
        }
    }
    if constexpr (all_bits == 8) {
        sums.clear();
        #pragma GCC unroll 8
        for (int g = 0; g < count; ++g) sums.add(weights + 8 * 4 * panel_rows, numbers, first + g);
        const __m256i sixteen = _mm256_set1_epi16(16);
        for (int c = 0; c < columns; ++c) out[c] = _mm256_add_epi32(out[c], _mm256_madd_epi16(sums.lanes[c], sixteen));
    }
}

}  // namespace
}  // namespace hybrid
