// How are the loops behind the draw written so that compilers vectorise them? Fixed lanes, no branches inside.
#include "kernels.hpp"
#include "lanes.hpp"

namespace hybrid {
namespace {

HYBRID_INLINE void group_maxima_body(const float* logits, std::size_t n, float* maxima) {
    // More lanes than groups, combined at the end: one maximum after the other would wait for the one before.
    constexpr std::size_t kWide = 4 * kLanes;
    const std::size_t full = n / kSpan;
    for (std::size_t span = 0; span < full; ++span) {
        const float* from = logits + span * kSpan;
        float lane[kWide];
        for (std::size_t j = 0; j < kWide; ++j) lane[j] = kNegInf;
        for (std::size_t i = 0; i < kSpan; i += kWide)
            for (std::size_t j = 0; j < kWide; ++j) lane[j] = from[i + j] > lane[j] ? from[i + j] : lane[j];
        for (std::size_t half = kWide / 2; half >= kLanes; half /= 2)
            for (std::size_t j = 0; j < half; ++j) lane[j] = lane[j + half] > lane[j] ? lane[j + half] : lane[j];
        for (std::size_t j = 0; j < kLanes; ++j) maxima[span * kLanes + j] = lane[j];
    }
    if (full * kSpan == n) return;
    float* last = maxima + full * kLanes;
    for (std::size_t j = 0; j < kLanes; ++j) last[j] = kNegInf;
    for (std::size_t i = full * kSpan; i < n; ++i)
        if (logits[i] > last[i % kLanes]) last[i % kLanes] = logits[i];
}

HYBRID_INLINE void weights_and_buckets_body(const float* logits, std::size_t n, float peak, float coldness,
                                            float* weights, std::uint16_t* buckets) {
    constexpr float kLast = kBuckets - 1;
    for (std::size_t i = 0; i < n; ++i) {
        const float distance = (logits[i] - peak) * coldness;
        weights[i] = weight_of(exp32(distance));
        const float bucket = distance * -kBucketsPerNat;
        buckets[i] = static_cast<std::uint16_t>(static_cast<std::int32_t>(bucket < kLast ? bucket : kLast));
    }
}

HYBRID_INLINE void apply_mask_body(float* logits, std::size_t n, const std::uint32_t* allowed) {
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

HYBRID_INLINE std::size_t next_run_body(const std::uint16_t* buckets, std::size_t n, std::size_t start,
                                        std::uint16_t wanted) {
    for (; start < n; start += kBucketRun) {
        std::uint16_t matches = 0;
        for (std::size_t j = 0; j < kBucketRun; ++j) matches |= buckets[start + j] == wanted;
        if (matches) return start;
    }
    return n;
}

}  // namespace

HYBRID_VERSIONS(void, group_maxima, (const float* logits, std::size_t n, float* maxima), (logits, n, maxima))
HYBRID_VERSIONS(void, weights_and_buckets,
                (const float* logits, std::size_t n, float peak, float coldness, float* weights,
                 std::uint16_t* buckets),
                (logits, n, peak, coldness, weights, buckets))
HYBRID_VERSIONS(void, apply_mask, (float* logits, std::size_t n, const std::uint32_t* allowed), (logits, n, allowed))
HYBRID_VERSIONS(std::size_t, next_run,
                (const std::uint16_t* buckets, std::size_t n, std::size_t start, std::uint16_t wanted),
                (buckets, n, start, wanted))

}  // namespace hybrid
