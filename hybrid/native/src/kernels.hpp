// Which loops run over a whole row of logits? Each is one pass that the compiler vectorises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace hybrid {

// A row longer than this could make a sum of weights inexact; see weight_of.
constexpr std::size_t kMaxVocab = std::size_t{1} << 20;
constexpr float kExpFloor = -87.0f;

// Logits are grouped so that few groups need a look when the largest are wanted: group g = 16 * s + j holds logits
// s * 1024 + 16 * r + j for r < 64. Strided, because lanes then never have to be combined.
constexpr std::size_t kLanes = 16;
constexpr std::size_t kSpan = 1024;

inline std::size_t groups_of(std::size_t n) { return (n + kSpan - 1) / kSpan * kLanes; }
inline std::size_t group_start(std::size_t group) { return group / kLanes * kSpan + group % kLanes; }

// Buckets of close logits, the likeliest in bucket 0. Weights vanish below e^-23.6: 24 nats hold all there is to draw.
constexpr std::size_t kBuckets = 1024;
constexpr float kBucketsPerNat = kBuckets / 24.0f;

// e^value for value <= 0; below -87 exactly 0, NaN stays. Relative error below 8.3e-8.
// Every operation is rounded once (no fused multiply-add: the build sets -ffp-contract=off), so the numpy twin gives
// the same bits on any processor. Coefficients: our own minimax fit, see reference.py.
inline float exp32(float value) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const float clamped = value < kExpFloor ? kExpFloor : value;
    const float shifted = clamped * 1.44269504f + kRound;
    const float whole = shifted - kRound;
    const float rest = (clamped - whole * 0.693359375f) - whole * -2.12194440e-4f;
    float polynomial = 0x1.6a23d0p-10f;
    polynomial = polynomial * rest + 0x1.123a20p-7f;
    polynomial = polynomial * rest + 0x1.5558f2p-5f;
    polynomial = polynomial * rest + 0x1.555492p-3f;
    polynomial = polynomial * rest + 0x1.fffffcp-2f;
    const float mantissa = ((polynomial * rest) * rest + rest) + 1.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4b400000u + 127u) << 23;  // 0x4b400000 is kRound's own bit pattern
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return value < kExpFloor ? 0.0f : mantissa * scale;
}

// A ratio of [0, 1] rounded to a multiple of 2^-33; from 2^-10 up it is one already. Sums of up to 2^20 of these are
// exact in a double, so neither the order of summation nor the algorithm can change which token is drawn.
inline float weight_of(float ratio) {
    constexpr float kGrid = 0x1p-10f;
    return ratio < kGrid ? (ratio + kGrid) - kGrid : ratio;
}

struct ExpSums {
    double mass;    // sum of e^(x - peak)
    double moment;  // sum of e^(x - peak) * (x - peak)
};

// The maximum of each group, groups_of(n) of them; -inf for an empty group. NaN is passed over (exp_sums shows it).
void group_maxima(const float* logits, std::size_t n, float* maxima);

ExpSums exp_sums(const float* logits, std::size_t n, float peak);

// The sum of the weights of e^((x - peak) * coldness).
double weight_sum(const float* logits, std::size_t n, float peak, float coldness);

// The weight of each logit and its bucket.
void weights_and_buckets(const float* logits, std::size_t n, float peak, float coldness, float* weights,
                         std::uint16_t* buckets);

// Sets to -inf the logits whose bit is 0 in `allowed`.
void apply_mask(float* logits, std::size_t n, const std::uint32_t* allowed);

// How many of 64 consecutive entries equal `wanted`.
int count_equal_64(const std::uint16_t* entries, std::uint16_t wanted);

}  // namespace hybrid
