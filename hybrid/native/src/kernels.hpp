// Which loops run over a whole row of logits? Each is one pass that the compiler vectorises.
#pragma once

#include <cstddef>
#include <cstdint>

#include "exp32.hpp"

namespace hybrid {

// A row longer than this could make a sum of weights inexact; see weight_of.
constexpr std::size_t kMaxVocab = std::size_t{1} << 20;

// Logits are grouped so that few groups need a look when the largest are wanted: group g = 16 * s + j holds logits
// s * 1024 + 16 * r + j for r < 64. Strided, because lanes then never have to be combined.
constexpr std::size_t kLanes = 16;
constexpr std::size_t kSpan = 1024;

inline std::size_t groups_of(std::size_t n) { return (n + kSpan - 1) / kSpan * kLanes; }
inline std::size_t group_start(std::size_t group) { return group / kLanes * kSpan + group % kLanes; }

// Buckets of close logits, the likeliest in bucket 0. Weights vanish below e^-23.6: 24 nats hold all there is to draw.
constexpr std::size_t kBuckets = 1024;
constexpr float kBucketsPerNat = kBuckets / 24.0f;
// Bucket numbers are looked through this many at a time.
constexpr std::size_t kBucketRun = 64;

// A ratio of [0, 1] rounded to a multiple of 2^-33; from 2^-10 up it is one already. Sums of up to 2^20 of these are
// exact in a double, so neither the order of summation nor the algorithm can change which token is drawn.
static HYBRID_INLINE float weight_of(float ratio) {
    constexpr float kGrid = 0x1p-10f;
    return ratio < kGrid ? (ratio + kGrid) - kGrid : ratio;
}

struct ExpSums {
    double mass;    // sum of e^(x - peak)
    double moment;  // sum of e^(x - peak) * (x - peak)
};

// In statistics.cpp: fused operations are allowed, so the last bits depend on the processor.
ExpSums exp_sums(const float* logits, std::size_t n, float peak);

// About the sum of e^((x - peak) * coldness), for the draw; mass_error bounds how far the sum of the weights is away.
double mass_estimate(const float* logits, std::size_t n, float peak, float coldness);

// Per unit of mass: exp32 8.3e-8, the sums' own exponential 1.9e-7 and 6e-8 a nat, of which there are no more than
// ln(2^20) = 14 on average where it weighs, and fifteen float32 additions, 9e-7; with room for all of it again. Per
// logit: half a grid step of weight_of; with as much room.
inline double mass_error(double mass, std::size_t n) { return mass * 4e-6 + static_cast<double>(n) * 0x1p-33; }

// The rest is in kernels.cpp, where every bit is the twin's.

// The maximum of each group, groups_of(n) of them; -inf for an empty group. NaN is passed over (exp_sums shows it).
void group_maxima(const float* logits, std::size_t n, float* maxima);

// The weight of each e^((x - peak) * coldness) and its bucket.
void weights_and_buckets(const float* logits, std::size_t n, float peak, float coldness, float* weights,
                         std::uint16_t* buckets);

// Sets to -inf the logits whose bit is 0 in `allowed`.
void apply_mask(float* logits, std::size_t n, const std::uint32_t* allowed);

// The start of the first run from `start` on, both multiples of kBucketRun, that holds `wanted`; `n` if none does.
std::size_t next_run(const std::uint16_t* buckets, std::size_t n, std::size_t start, std::uint16_t wanted);

}  // namespace hybrid
