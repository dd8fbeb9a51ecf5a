// What does a block of a GGUF tensor hold? Eight rows at a time, as the codes and scales that are multiplied fastest. After one of
// matmul_avx2.hpp and matmul_vnni.hpp, which say how many rows a panel has.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace hybrid {
namespace {

constexpr int block_length = 32;  // weights that share a scale in a panel, or two halves of it
constexpr int eight = 8;          // rows that are unpacked together without AVX-512

struct Rows {  // where the next block of each row lies
    const uint8_t* at[eight];
};

template <class Number>
inline Number number_at(const uint8_t* at) {
    Number number;
    std::memcpy(&number, at, sizeof number);
    return number;
}

inline __m256i bytes_at(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

inline float half_at(const uint8_t* at) { return _cvtsh_ss(number_at<uint16_t>(at)); }

// One half of each row, `offset` bytes into its block.
inline __m256 halves_at(const Rows& rows, int offset) {
    __m128i halves = _mm_cvtsi32_si128(number_at<uint16_t>(rows.at[0] + offset));
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[1] + offset), 1);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[2] + offset), 2);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[3] + offset), 3);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[4] + offset), 4);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[5] + offset), 5);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[6] + offset), 6);
    halves = _mm_insert_epi16(halves, number_at<uint16_t>(rows.at[7] + offset), 7);
    return _mm256_cvtph_ps(halves);
}

// Rows and columns of 8 x 8 numbers of 32 bits change places.
inline void transpose(const __m256i from[8], __m256i to[8]) {
    __m256i pairs[8], fours[8];
    for (int i = 0; i < 4; ++i) {
        pairs[2 * i] = _mm256_unpacklo_epi32(from[2 * i], from[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(from[2 * i], from[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            fours[4 * i + 2 * j] = _mm256_unpacklo_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
            fours[4 * i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[4 * i + j], pairs[4 * i + j + 2]);
        }
    }
    for (int i = 0; i < 4; ++i) {
        to[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        to[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

// Eight numbers of each row, by number: 0 to 7 of row 0, ... become number 0 of all rows, ...
inline void by_number(const __m256 from[8], __m256 to[8]) {
    __m256i words[8], turned[8];
    for (int i = 0; i < 8; ++i) words[i] = _mm256_castps_si256(from[i]);
    transpose(words, turned);
    for (int i = 0; i < 8; ++i) to[i] = _mm256_castsi256_ps(turned[i]);
}

inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }

// 16 bytes of two codes each: the low ones first, then the high ones.
inline __m256i nibbles(const uint8_t* at) {
    const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return low_nibbles(_mm256_set_m128i(_mm_srli_epi16(both, 4), both));
}

// 32 bits as 32 bytes of 0 or 16.
inline __m256i fifth_bits(const uint8_t* at) {
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(number_at<int>(at)), byte_of);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of), _mm256_set1_epi8(16));
}

// The formats, as ggml-common.h lays them out. weight = scale * code + shift; codes are not negative. A block is `blocks` times
// 32 weights with `scales` scales each; `bits` of a code tell how many products 16 bits can sum.
template <int bits_, int bytes_, int blocks_ = 1, int scales_ = 1>
struct Shape {
    static constexpr int bits = bits_, bytes = bytes_, blocks = blocks_, scales = scales_;
    static constexpr int planes = planes_of(bits);
    // A block in a panel: codes [plane][group of 4][row][4], then floats: scale [of the block's][row], shift [same][row].
    static constexpr int panel_bytes = panel_rows * (planes * block_length + 2 * scales * 4);
    static constexpr int column_bytes = block_length + 4 * (1 + scales);
};

struct Q4_0 : Shape<4, 18> {
    static __m256i codes(const uint8_t* block, int) { return nibbles(block + 2); }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        *scale = halves_at(rows, 0);
        *shift = _mm256_mul_ps(*scale, _mm256_set1_ps(-8));
    }
};

struct Q4_1 : Shape<4, 20> {
    static __m256i codes(const uint8_t* block, int) { return nibbles(block + 4); }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        *scale = halves_at(rows, 0);
        *shift = halves_at(rows, 2);
    }
};

struct Q5_0 : Shape<5, 22> {
    static __m256i codes(const uint8_t* block, int) { return _mm256_or_si256(nibbles(block + 6), fifth_bits(block + 2)); }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        *scale = halves_at(rows, 0);
        *shift = _mm256_mul_ps(*scale, _mm256_set1_ps(-16));
    }
};

struct Q5_1 : Shape<5, 24> {
    static __m256i codes(const uint8_t* block, int) { return _mm256_or_si256(nibbles(block + 8), fifth_bits(block + 4)); }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) { Q4_1::scale(rows, scale, shift); }
};

struct Q8_0 : Shape<8, 34> {
    static __m256i codes(const uint8_t* block, int) { return _mm256_xor_si256(bytes_at(block + 2), _mm256_set1_epi8(-128)); }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        *scale = halves_at(rows, 0);
        *shift = _mm256_mul_ps(*scale, _mm256_set1_ps(-128));
    }
};

inline __m256 eight_bytes(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes))));
}

struct SixBits {
    uint64_t scales, minima;  // eight bytes each
};

// Eight scales and eight minima of six bits in twelve bytes, the upper two bits of the last four apart.
inline SixBits six_bits(const uint8_t* at) {
    const uint32_t first = number_at<uint32_t>(at), second = number_at<uint32_t>(at + 4), third = number_at<uint32_t>(at + 8);
    const uint64_t last_scales = (third & 0x0f0f0f0f) | ((first >> 2) & 0x30303030);
    const uint64_t last_minima = ((third >> 4) & 0x0f0f0f0f) | ((second >> 2) & 0x30303030);
    return {(first & 0x3f3f3f3f) | last_scales << 32, (second & 0x3f3f3f3f) | last_minima << 32};
}

struct Q4_K : Shape<4, 144, 8> {
    static __m256i codes(const uint8_t* block, int sub) {
        return low_nibbles(_mm256_srli_epi16(bytes_at(block + 16 + 32 * (sub / 2)), 4 * (sub % 2)));
    }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        __m256 scales[eight], shifts[eight];
        for (int r = 0; r < eight; ++r) {
            const SixBits six = six_bits(rows.at[r] + 4);
            scales[r] = _mm256_mul_ps(eight_bytes(six.scales), _mm256_set1_ps(half_at(rows.at[r])));
            shifts[r] = _mm256_mul_ps(eight_bytes(six.minima), _mm256_set1_ps(-half_at(rows.at[r] + 2)));
        }
        by_number(scales, scale);
        by_number(shifts, shift);
    }
};

struct Q5_K : Shape<5, 176, 8> {
    static __m256i codes(const uint8_t* block, int sub) {
        const __m256i four = low_nibbles(_mm256_srli_epi16(bytes_at(block + 48 + 32 * (sub / 2)), 4 * (sub % 2)));
        const __m256i fifth = _mm256_and_si256(_mm256_srli_epi16(bytes_at(block + 16), sub), _mm256_set1_epi8(1));
        return _mm256_or_si256(four, _mm256_slli_epi16(fifth, 4));
    }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) { Q4_K::scale(rows, scale, shift); }
};

struct Q6_K : Shape<6, 210, 8, 2> {
    static __m256i codes(const uint8_t* block, int sub) {
        const int half = sub / 4, quarter = sub % 4;
        const __m256i low = bytes_at(block + 64 * half + 32 * (quarter % 2)), high = bytes_at(block + 128 + 32 * half);
        const __m256i two = _mm256_and_si256(_mm256_srli_epi16(high, 2 * quarter), _mm256_set1_epi8(3));
        return _mm256_or_si256(low_nibbles(_mm256_srli_epi16(low, 4 * (quarter / 2))), _mm256_slli_epi16(two, 4));
    }
    static void scale(const Rows& rows, __m256* scale, __m256* shift) {
        for (int half = 0; half < 2; ++half) {
            __m256 scales[eight];
            for (int r = 0; r < eight; ++r) {
                const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(rows.at[r] + 192 + 8 * half));
                const __m256 numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
                scales[r] = _mm256_mul_ps(numbers, _mm256_set1_ps(half_at(rows.at[r] + 208)));
            }
            by_number(scales, scale + 8 * half);
        }
        for (int i = 0; i < 16; ++i) shift[i] = _mm256_mul_ps(scale[i], _mm256_set1_ps(-32));
    }
};

}  // namespace
}  // namespace hybrid
