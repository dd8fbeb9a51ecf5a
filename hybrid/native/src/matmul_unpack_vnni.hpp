// How do sixteen rows become a panel? Words change places before they are split into codes: one transposition serves two blocks.
#pragma once

#include "matmul_weights.hpp"

namespace hybrid {
namespace {

struct Sixteen {  // where the next block of each row lies
    const uint8_t* at[panel_rows];
};

// Four registers of rows by words, in each quarter, as four of words by rows.
inline void transpose_quarters(const __m512i from[4], __m512i to[4]) {
    const __m512i a = _mm512_unpacklo_epi32(from[0], from[1]), b = _mm512_unpacklo_epi32(from[2], from[3]);
    const __m512i c = _mm512_unpackhi_epi32(from[0], from[1]), d = _mm512_unpackhi_epi32(from[2], from[3]);
    to[0] = _mm512_unpacklo_epi64(a, b);
    to[1] = _mm512_unpackhi_epi64(a, b);
    to[2] = _mm512_unpacklo_epi64(c, d);
    to[3] = _mm512_unpackhi_epi64(c, d);
}

// Four words of 32 bits of each row, `offset` bytes into its block, by word.
inline void four_words(const Sixteen& rows, int offset, __m512i to[4]) {
    const auto quarter = [&rows, offset](int row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows.at[row] + offset)); };
    __m512i from[4];
    for (int i = 0; i < 4; ++i) {
        from[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 4), 1);
        from[i] = _mm512_inserti32x4(_mm512_inserti32x4(from[i], quarter(i + 8), 2), quarter(i + 12), 3);
    }
    transpose_quarters(from, to);
}

// The same of eight.
inline void eight_words(const Sixteen& rows, int offset, __m512i to[8]) {
    __m512i fours[2][4];
    for (int half = 0; half < 2; ++half) {
        __m512i from[4];
        for (int i = 0; i < 4; ++i) {
            const int row = 8 * half + i;
            from[i] = _mm512_inserti64x4(_mm512_castsi256_si512(bytes_at(rows.at[row] + offset)), bytes_at(rows.at[row + 4] + offset), 1);
        }
        transpose_quarters(from, fours[half]);
    }
    for (int i = 0; i < 4; ++i) {
        to[i] = _mm512_shuffle_i32x4(fours[0][i], fours[1][i], 0x88);
        to[i + 4] = _mm512_shuffle_i32x4(fours[0][i], fours[1][i], 0xdd);
    }
}

inline __m512i only(__m512i bytes, int bits) { return _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>(bits))); }

// Bits `from` and above of each byte as `to` and above; what is beside them must be masked.
inline __m512i moved(__m512i bytes, int from, int to) {
    return from > to ? _mm512_srli_epi16(bytes, from - to) : _mm512_slli_epi16(bytes, to - from);
}

inline __m512 low_halves(__m512i words) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)); }
inline __m512 high_halves(__m512i words) { return low_halves(_mm512_srli_epi32(words, 16)); }
inline __m512 times_number(__m512 a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }

// A block of a panel.
inline void store_group(uint8_t* panel, int group, __m512i codes) { _mm512_store_si512(panel + 64 * group, codes); }
inline void store_scale(uint8_t* panel, int number, __m512 scale) { _mm512_store_ps(panel + 64 * (8 + number), scale); }

template <class Format>
struct Unpack;  // the next block of sixteen rows as `Format::blocks` of a panel

template <int at>
inline void unpack_nibbles(const Sixteen& rows, uint8_t* panel) {
    __m512i both[4];
    four_words(rows, at, both);
    for (int g = 0; g < 4; ++g) {
        store_group(panel, g, only(both[g], 15));
        store_group(panel, g + 4, only(_mm512_srli_epi16(both[g], 4), 15));
    }
}

template <>
struct Unpack<Q4_0> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        __m512i head[4];
        four_words(rows, 0, head);
        store_scale(panel, 0, low_halves(head[0]));
        store_scale(panel, 1, times_number(low_halves(head[0]), -8));
        unpack_nibbles<2>(rows, panel);
    }
};

template <>
struct Unpack<Q4_1> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        __m512i head[4];
        four_words(rows, 0, head);
        store_scale(panel, 0, low_halves(head[0]));
        store_scale(panel, 1, high_halves(head[0]));
        unpack_nibbles<4>(rows, panel);
    }
};

// The fifth bits of 32 codes are a word of each row.
template <int at>
inline void unpack_fives(const Sixteen& rows, __m512i fifth, uint8_t* panel) {
    __m512i both[4];
    four_words(rows, at, both);
    for (int g = 0; g < 8; ++g) {
        const __m512i four = only(g < 4 ? both[g] : _mm512_srli_epi16(both[g - 4], 4), 15);
        const __m512i byte_of = _mm512_add_epi8(_mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0), _mm512_set1_epi8(static_cast<char>(g / 2)));
        const __m512i bit_of = _mm512_set1_epi32(g % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010));
        const __mmask64 is_set = _mm512_test_epi8_mask(_mm512_shuffle_epi8(fifth, byte_of), bit_of);
        store_group(panel, g, _mm512_mask_add_epi8(four, is_set, four, _mm512_set1_epi8(16)));
    }
}

template <>
struct Unpack<Q5_0> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        __m512i head[4];
        four_words(rows, 0, head);
        store_scale(panel, 0, low_halves(head[0]));
        store_scale(panel, 1, times_number(low_halves(head[0]), -16));
        unpack_fives<6>(rows, _mm512_or_si512(_mm512_srli_epi32(head[0], 16), _mm512_slli_epi32(head[1], 16)), panel);
    }
};

template <>
struct Unpack<Q5_1> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        __m512i head[4];
        four_words(rows, 0, head);
        store_scale(panel, 0, low_halves(head[0]));
        store_scale(panel, 1, high_halves(head[0]));
        unpack_fives<8>(rows, head[1], panel);
    }
};

template <>
struct Unpack<Q8_0> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        __m512i head[4], codes[8];
        four_words(rows, 0, head);
        store_scale(panel, 0, low_halves(head[0]));
        store_scale(panel, 1, times_number(low_halves(head[0]), -128));
        eight_words(rows, 2, codes);
        for (int g = 0; g < 8; ++g) store_group(panel, g, _mm512_xor_si512(codes[g], _mm512_set1_epi8(-128)));
    }
};

// Bytes of words without sign, times a number of each row, as the `number`th scale of four blocks.
template <class Format>
inline void store_bytes(__m512i words, __m512 factor, int number, uint8_t* panel) {
    for (int byte = 0; byte < 4; ++byte) {
        const __m512i one = _mm512_and_si512(_mm512_srli_epi32(words, 8 * byte), _mm512_set1_epi32(255));
        store_scale(panel + byte * Format::panel_bytes, number, _mm512_mul_ps(_mm512_cvtepi32_ps(one), factor));
    }
}

// Scale, least, and eight of six bits for each: as six_bits() has them, for all rows at once.
template <class Format>
inline void unpack_six_bits(const Sixteen& rows, uint8_t* panel) {
    __m512i head[4];
    four_words(rows, 0, head);
    const __m512 scale = low_halves(head[0]);
    const __m512 least = low_halves(_mm512_xor_si512(_mm512_srli_epi32(head[0], 16), _mm512_set1_epi32(0x8000)));  // its negative
    const __m512i last_scales = _mm512_or_si512(only(head[3], 0x0f), only(_mm512_srli_epi32(head[1], 2), 0x30));
    const __m512i last_minima = _mm512_or_si512(only(_mm512_srli_epi32(head[3], 4), 0x0f), only(_mm512_srli_epi32(head[2], 2), 0x30));
    store_bytes<Format>(only(head[1], 0x3f), scale, 0, panel);
    store_bytes<Format>(only(head[2], 0x3f), least, 1, panel);
    store_bytes<Format>(last_scales, scale, 0, panel + 4 * Format::panel_bytes);
    store_bytes<Format>(last_minima, least, 1, panel + 4 * Format::panel_bytes);
}

template <>
struct Unpack<Q4_K> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        unpack_six_bits<Q4_K>(rows, panel);
        for (int sub = 0; sub < 8; sub += 2, panel += 2 * Q4_K::panel_bytes) {
            __m512i both[8];
            eight_words(rows, 16 + 16 * sub, both);
            for (int g = 0; g < 8; ++g) {
                store_group(panel, g, only(both[g], 15));
                store_group(panel + Q4_K::panel_bytes, g, only(_mm512_srli_epi16(both[g], 4), 15));
            }
        }
    }
};

template <>
struct Unpack<Q5_K> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        unpack_six_bits<Q5_K>(rows, panel);
        __m512i fifth[8];
        eight_words(rows, 16, fifth);
        #pragma GCC unroll 4
        for (int sub = 0; sub < 8; sub += 2, panel += 2 * Q5_K::panel_bytes) {
            __m512i both[8];
            eight_words(rows, 48 + 16 * sub, both);
            for (int g = 0; g < 8; ++g) {
                const __m512i low = only(both[g], 15), high = only(_mm512_srli_epi16(both[g], 4), 15);
                store_group(panel, g, _mm512_or_si512(low, only(moved(fifth[g], sub, 4), 16)));
                store_group(panel + Q5_K::panel_bytes, g, _mm512_or_si512(high, only(moved(fifth[g], sub + 1, 4), 16)));
            }
        }
    }
};

// Sixteen bytes with sign, two of each block, times the scale of the row.
inline void unpack_signed(const Sixteen& rows, uint8_t* panel) {
    __m512i words[4], last[4];
    four_words(rows, 192, words);
    four_words(rows, 194, last);
    const __m512 factor = high_halves(last[3]);
    for (int i = 0; i < 16; ++i) {
        const __m512i number = _mm512_srai_epi32(_mm512_slli_epi32(words[i / 4], 24 - 8 * (i % 4)), 24);
        const __m512 scale = _mm512_mul_ps(_mm512_cvtepi32_ps(number), factor);
        store_scale(panel + i / 2 * Q6_K::panel_bytes, i % 2, scale);
        store_scale(panel + i / 2 * Q6_K::panel_bytes, 2 + i % 2, times_number(scale, -32));
    }
}

template <>
struct Unpack<Q6_K> {
    static void block(const Sixteen& rows, uint8_t* panel) {
        unpack_signed(rows, panel);
        for (int half = 0; half < 2; ++half) {
            __m512i low[2][8], high[8];
            eight_words(rows, 64 * half, low[0]);
            eight_words(rows, 64 * half + 32, low[1]);
            eight_words(rows, 128 + 32 * half, high);
            #pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; ++quarter, panel += Q6_K::panel_bytes) {
                for (int g = 0; g < 8; ++g) {
                    const __m512i four = only(_mm512_srli_epi16(low[quarter % 2][g], 4 * (quarter / 2)), 15);
                    store_group(panel, g, _mm512_or_si512(four, only(moved(high[g], 2 * quarter, 4), 0x30)));
                }
            }
        }
    }
};

// The rows of a panel from `first` on, `row_bytes` apart, in `block_count` blocks. Of fewer than sixteen the last stands for those
// that are not there.
template <class Format>
void unpack(const uint8_t* first, size_t row_bytes, int row_count, int block_count, uint8_t* panel) {
    Sixteen rows;
    for (int r = 0; r < panel_rows; ++r) rows.at[r] = first + std::min(r, row_count - 1) * row_bytes;
    for (int b = 0; b < block_count; b += Format::blocks) {
        Unpack<Format>::block(rows, panel);
        panel += Format::blocks * Format::panel_bytes;
        for (int r = 0; r < panel_rows; ++r) rows.at[r] += Format::bytes;
    }
}

}  // namespace
}  // namespace hybrid
