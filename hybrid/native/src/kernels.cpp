// How are the whole-row loops written so that compilers vectorise them? Fixed chunks, fixed lanes, no branches inside.
#include "kernels.hpp"

#include <limits>

// Several versions of one function in the binary, one chosen when it is loaded; CMake checks that it works here.
#ifdef HYBRID_HAS_TARGET_CLONES
#define HYBRID_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define HYBRID_CLONES
#endif

// What a cloned function calls must become part of it to be compiled for its processor.
#if defined(__GNUC__)
#define HYBRID_INLINE __attribute__((always_inline))
#else
#define HYBRID_INLINE
#endif

namespace hybrid {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();
// Logits taken at once by the sums: as many as compilers turned into the fastest code.
constexpr std::size_t kExpChunk = 4 * kLanes;
constexpr std::size_t kWeightChunk = 16 * kLanes;

// The last, short chunk of a row, filled up with -inf, which weighs nothing.
template <std::size_t kChunk>
struct Tail {
    float logits[kChunk];

    Tail(const float* row, std::size_t n) {
        const std::size_t start = n - n % kChunk;
        for (std::size_t j = 0; j < kChunk; ++j) logits[j] = start + j < n ? row[start + j] : kNegInf;
    }
};

inline HYBRID_INLINE void add_exp_sums(const float* chunk, float peak, double* mass, double* moment) {
    // Four neighbours are added in float32 before they join the float64 sums: half the time, and an error that stays
    // below that of exp32 itself.
    float ratios[kLanes] = {}, products[kLanes] = {};
    for (std::size_t row = 0; row < kExpChunk / kLanes; ++row)
        for (std::size_t j = 0; j < kLanes; ++j) {
            const float distance = chunk[row * kLanes + j] - peak;
            const float ratio = exp32(distance);
            ratios[j] += ratio;
            // Clamped, because 0 * -inf would be NaN.
            products[j] += ratio * (distance < kExpFloor ? kExpFloor : distance);
        }
    for (std::size_t j = 0; j < kLanes; ++j) {
        mass[j] += ratios[j];
        moment[j] += products[j];
    }
}

inline HYBRID_INLINE void add_weights(const float* chunk, float peak, float coldness, double* sums) {
    float weights[kWeightChunk];
    for (std::size_t j = 0; j < kWeightChunk; ++j) weights[j] = weight_of(exp32((chunk[j] - peak) * coldness));
    for (std::size_t row = 0; row < kWeightChunk / kLanes; ++row)
        for (std::size_t j = 0; j < kLanes; ++j) sums[j] += weights[row * kLanes + j];
}

}  // namespace

HYBRID_CLONES void group_maxima(const float* logits, std::size_t n, float* maxima) {
    const std::size_t full = n / kSpan;
    for (std::size_t span = 0; span < full; ++span) {
        const float* from = logits + span * kSpan;
        float lane[kLanes];
        for (std::size_t j = 0; j < kLanes; ++j) lane[j] = kNegInf;
        for (std::size_t i = 0; i < kSpan; i += kLanes)
            for (std::size_t j = 0; j < kLanes; ++j) lane[j] = from[i + j] > lane[j] ? from[i + j] : lane[j];
        for (std::size_t j = 0; j < kLanes; ++j) maxima[span * kLanes + j] = lane[j];
    }
    if (full * kSpan == n) return;
    float* last = maxima + full * kLanes;
    for (std::size_t j = 0; j < kLanes; ++j) last[j] = kNegInf;
    for (std::size_t i = full * kSpan; i < n; ++i)
        if (logits[i] > last[i % kLanes]) last[i % kLanes] = logits[i];
}

HYBRID_CLONES ExpSums exp_sums(const float* logits, std::size_t n, float peak) {
    double mass[kLanes] = {}, moment[kLanes] = {};
    for (std::size_t i = 0; i + kExpChunk <= n; i += kExpChunk) add_exp_sums(logits + i, peak, mass, moment);
    if (n % kExpChunk != 0) add_exp_sums(Tail<kExpChunk>(logits, n).logits, peak, mass, moment);
    ExpSums sums{0.0, 0.0};
    for (std::size_t j = 0; j < kLanes; ++j) {
        sums.mass += mass[j];
        sums.moment += moment[j];
    }
    return sums;
}

HYBRID_CLONES double weight_sum(const float* logits, std::size_t n, float peak, float coldness) {
    double sums[kLanes] = {};
    for (std::size_t i = 0; i + kWeightChunk <= n; i += kWeightChunk) add_weights(logits + i, peak, coldness, sums);
    if (n % kWeightChunk != 0) add_weights(Tail<kWeightChunk>(logits, n).logits, peak, coldness, sums);
    double total = 0.0;
    for (double sum : sums) total += sum;
    return total;
}

HYBRID_CLONES void weights_and_buckets(const float* logits, std::size_t n, float peak, float coldness, float* weights,
                                       std::uint16_t* buckets) {
    constexpr float kLast = kBuckets - 1;
    for (std::size_t i = 0; i < n; ++i) {
        const float depth = (logits[i] - peak) * coldness;
        weights[i] = weight_of(exp32(depth));
        const float bucket = depth * -kBucketsPerNat;
        buckets[i] = static_cast<std::uint16_t>(static_cast<std::int32_t>(bucket < kLast ? bucket : kLast));
    }
}

HYBRID_CLONES void apply_mask(float* logits, std::size_t n, const std::uint32_t* allowed) {
    const std::size_t full = n / 32;
    for (std::size_t word = 0; word < full; ++word) {
        const std::uint32_t bits = allowed[word];
        if (bits == 0xFFFFFFFFu) continue;
        float* from = logits + word * 32;
        for (std::uint32_t j = 0; j < 32; ++j) from[j] = bits & (std::uint32_t{1} << j) ? from[j] : kNegInf;
    }
    for (std::size_t i = full * 32; i < n; ++i)
        if (!(allowed[full] & (std::uint32_t{1} << i % 32))) logits[i] = kNegInf;
}

HYBRID_CLONES int count_equal_64(const std::uint16_t* entries, std::uint16_t wanted) {
    std::uint16_t count = 0;
    for (std::size_t j = 0; j < 64; ++j) count += entries[j] == wanted;
    return count;
}

}  // namespace hybrid
