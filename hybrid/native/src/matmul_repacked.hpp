// What do ggml's repacked weights and columns hold? Its repack.h interleaves eight rows, four columns, by eight bytes.
#pragma once

#include "matmul_weights.hpp"

namespace hybrid {
namespace {

// (a0 a1 b0 b1 c0 c1 d0 d1) of 32-bit words becomes (a0 b0 c0 d0 a1 b1 c1 d1).
inline __m256i by_group(__m256i words) { return _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)); }

// Eight bytes of each of eight rows as two groups of four.
inline void store_groups(__m256i first_rows, __m256i last_rows, uint8_t* out) {
    const __m256i first = by_group(first_rows), last = by_group(last_rows);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(first, last, 0x20));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + 4 * panel_rows), _mm256_permute2x128_si256(first, last, 0x31));
}

// block_q4_Kx8: 8 scales, 8 minima (halves), per 32 weights the six-bit factors of the eight rows, the codes.
struct Q4_K_8x8 {
    using Format = Q4_K;
    static constexpr int bytes = 8 * Format::bytes, column_bytes = 16 + 4 * 256 + 128;
    static void unpack(const uint8_t* block, uint8_t* panel) {
        const __m256 whole = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
        const __m256 least = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 16)));
        for (int sub = 0; sub < Format::blocks; ++sub, panel += Format::panel_bytes) {
            const SixBits six = six_bits(block + 32 + 12 * sub);
            float* const numbers = reinterpret_cast<float*>(panel + panel_rows * block_length);
            _mm256_store_ps(numbers, _mm256_mul_ps(whole, eight_bytes(six.scales)));
            _mm256_store_ps(numbers + panel_rows, _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), least), eight_bytes(six.minima)));
            for (int pair = 0; pair < 4; ++pair) {
                const uint8_t* const at = block + 128 + 256 * (sub / 2) + 64 * pair;
                const int half = 4 * (sub % 2);
                store_groups(low_nibbles(_mm256_srli_epi16(bytes_at(at), half)),
                             low_nibbles(_mm256_srli_epi16(bytes_at(at + 32), half)), panel + 8 * panel_rows * pair);
            }
        }
    }
    // block_q8_Kx4: 4 scales, the codes, sums of 16 as 16-bit numbers, four of each column in turn.
    static void columns(const uint8_t* block, uint8_t* tile) {
        const __m128 scale = _mm_loadu_ps(reinterpret_cast<const float*>(block));
        for (int sub = 0; sub < Format::blocks; ++sub, tile += 4 * Format::column_bytes) {
            for (int pair = 0; pair < 4; ++pair) {
                const __m256i codes = by_group(bytes_at(block + 16 + 128 * sub + 32 * pair));
                _mm256_store_si256(reinterpret_cast<__m256i*>(tile) + pair, codes);
            }
            const __m256i pairs = _mm256_madd_epi16(bytes_at(block + 1040 + 32 * (sub / 2)), _mm256_set1_epi16(1));
            const __m256i sums = by_group(pairs);
            const __m128i of_sub = sub % 2 == 0 ? _mm256_castsi256_si128(sums) : _mm256_extracti128_si256(sums, 1);
            float* const numbers = reinterpret_cast<float*>(tile + 4 * block_length);
            _mm_store_ps(numbers, scale);
            _mm_store_ps(numbers + 4, _mm_mul_ps(scale, _mm_cvtepi32_ps(of_sub)));
        }
    }
};

// block_q4_0x8: 8 scales (halves), the codes with a sign.
struct Q4_0_8x8 {
    using Format = Q4_0;
    static constexpr int bytes = 8 * Format::bytes, column_bytes = 8 + 4 * 32;
    static void unpack(const uint8_t* block, uint8_t* panel) {
        const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block)));
        float* const numbers = reinterpret_cast<float*>(panel + panel_rows * block_length);
        _mm256_store_ps(numbers, scale);
        _mm256_store_ps(numbers + panel_rows, _mm256_mul_ps(scale, _mm256_set1_ps(-8)));
        const __m256i sign = _mm256_set1_epi8(-120);  // 0x88: of both nibbles
        for (int pair = 0; pair < 4; ++pair) {
            const uint8_t* const at = block + 16 + 64 * (pair % 2);
            const __m256i first = _mm256_xor_si256(bytes_at(at), sign), last = _mm256_xor_si256(bytes_at(at + 32), sign);
            const int half = 4 * (pair / 2);
            store_groups(low_nibbles(_mm256_srli_epi16(first, half)), low_nibbles(_mm256_srli_epi16(last, half)), panel + 8 * panel_rows * pair);
        }
    }
    // block_q8_0x4: 4 scales (halves), the codes.
    static void columns(const uint8_t* block, uint8_t* tile) {
        const __m128 scale = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(block)));
        __m128i sums = _mm_setzero_si128();
        for (int pair = 0; pair < 4; ++pair) {
            const __m256i codes = by_group(bytes_at(block + 8 + 32 * pair));
            _mm256_store_si256(reinterpret_cast<__m256i*>(tile) + pair, codes);
            const __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
            sums = _mm_add_epi32(sums, _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1)));
        }
        float* const numbers = reinterpret_cast<float*>(tile + 4 * block_length);
        _mm_store_ps(numbers, scale);
        _mm_store_ps(numbers + 4, _mm_mul_ps(scale, _mm_cvtepi32_ps(sums)));
    }
};

}  // namespace
}  // namespace hybrid
