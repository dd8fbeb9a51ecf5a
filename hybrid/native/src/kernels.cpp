// How are the whole-row loops written so that compilers vectorise them? Fixed blocks, fixed lanes, no branches.
#include "kernels.hpp"

#include <algorithm>
#include <limits>

namespace hybrid {
namespace {

constexpr std::size_t kChunk = 256;
constexpr std::size_t kLanes = 16;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

}  // namespace

HYBRID_CLONES void block_maxima(const float* logits, std::size_t n, float* maxima) {
    const std::size_t full = n / kBlock;
    for (std::size_t block = 0; block < full; ++block) {
        const float* from = logits + block * kBlock;
        float lane[kLanes];
        for (std::size_t j = 0; j < kLanes; ++j) lane[j] = kNegInf;
        for (std::size_t i = 0; i < kBlock; i += kLanes)
            for (std::size_t j = 0; j < kLanes; ++j) lane[j] = from[i + j] > lane[j] ? from[i + j] : lane[j];
        for (std::size_t half = kLanes / 2; half > 0; half /= 2)
            for (std::size_t j = 0; j < half; ++j) lane[j] = lane[j + half] > lane[j] ? lane[j + half] : lane[j];
        maxima[block] = lane[0];
    }
    if (full * kBlock == n) return;
    float last = kNegInf;
    for (std::size_t i = full * kBlock; i < n; ++i) last = logits[i] > last ? logits[i] : last;
    maxima[full] = last;
}

HYBRID_CLONES void exp_ratios(const float* logits, std::size_t n, float peak, float coldness, float* ratios) {
    for (std::size_t i = 0; i < n; ++i) ratios[i] = exp32((logits[i] - peak) * coldness);
}

HYBRID_CLONES ExpSums exp_sums(const float* logits, std::size_t n, float peak) {
    double mass[kLanes] = {}, moment[kLanes] = {};
    float tail[kChunk], ratio[kChunk], product[kChunk];
    for (std::size_t start = 0; start < n; start += kChunk) {
        const float* from = logits + start;
        if (n - start < kChunk) {
            std::fill(std::copy(from, logits + n, tail), tail + kChunk, kNegInf);
            from = tail;
        }
        for (std::size_t j = 0; j < kChunk; ++j) {
            const float distance = from[j] - peak;
            ratio[j] = exp32(distance);
            // Clamped, because 0 * -inf would be NaN.
            product[j] = ratio[j] * (distance < kExpFloor ? kExpFloor : distance);
        }
        for (std::size_t i = 0; i < kChunk; i += kLanes)
            for (std::size_t j = 0; j < kLanes; ++j) {
                mass[j] += ratio[i + j];
                moment[j] += product[i + j];
            }
    }
    ExpSums sums{0.0, 0.0};
    for (std::size_t j = 0; j < kLanes; ++j) {
        sums.mass += mass[j];
        sums.moment += moment[j];
    }
    return sums;
}

HYBRID_CLONES double weight_sum(const float* logits, std::size_t n, float peak, float coldness) {
    double sum[kLanes] = {};
    float tail[kChunk], ratio[kChunk];
    for (std::size_t start = 0; start < n; start += kChunk) {
        const float* from = logits + start;
        if (n - start < kChunk) {
            std::fill(std::copy(from, logits + n, tail), tail + kChunk, kNegInf);
            from = tail;
        }
        for (std::size_t j = 0; j < kChunk; ++j) ratio[j] = exp32((from[j] - peak) * coldness);
        for (std::size_t i = 0; i < kChunk; i += kLanes)
            for (std::size_t j = 0; j < kLanes; ++j) sum[j] += weight_of(ratio[i + j]);
    }
    double total = 0.0;
    for (double part : sum) total += part;
    return total;
}

}  // namespace hybrid
