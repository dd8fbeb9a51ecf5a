// How are a row's exponentials summed in one pass? The only file compiled with fused multiply-add, for what agrees
// with the twin within a tolerance. The draw agrees bit for bit, so it takes nothing from here but bounds.
#include "kernels.hpp"
#include "lanes.hpp"

namespace hybrid {
namespace {

constexpr std::size_t kRows = 4;
constexpr std::size_t kChunk = kRows * kLanes;

HYBRID_INLINE void add_chunk(const float* chunk, float peak, double* mass, double* moment) {
    // Four neighbours are added in float32 before they join the float64 sums: half the time, and an error that stays
    // below 2e-7 of sums that exp32 makes inexact anyway.
    float ratios[kLanes] = {}, products[kLanes] = {};
    for (std::size_t row = 0; row < kRows; ++row)
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

HYBRID_INLINE ExpSums exp_sums_body(const float* logits, std::size_t n, float peak) {
    double mass[kLanes] = {}, moment[kLanes] = {};
    for (std::size_t i = 0; i + kChunk <= n; i += kChunk) add_chunk(logits + i, peak, mass, moment);
    if (n % kChunk != 0) add_chunk(Tail<kChunk>(logits, n).logits, peak, mass, moment);
    ExpSums sums{0.0, 0.0};
    for (std::size_t j = 0; j < kLanes; ++j) {
        sums.mass += mass[j];
        sums.moment += moment[j];
    }
    return sums;
}

HYBRID_INLINE void add_ratios(const float* chunk, float peak, float coldness, double* mass) {
    float ratios[kLanes] = {};
    for (std::size_t row = 0; row < kRows; ++row)
        for (std::size_t j = 0; j < kLanes; ++j) ratios[j] += exp32((chunk[row * kLanes + j] - peak) * coldness);
    for (std::size_t j = 0; j < kLanes; ++j) mass[j] += ratios[j];
}

HYBRID_INLINE double mass_estimate_body(const float* logits, std::size_t n, float peak, float coldness) {
    double mass[kLanes] = {};
    for (std::size_t i = 0; i + kChunk <= n; i += kChunk) add_ratios(logits + i, peak, coldness, mass);
    if (n % kChunk != 0) add_ratios(Tail<kChunk>(logits, n).logits, peak, coldness, mass);
    double sum = 0.0;
    for (double part : mass) sum += part;
    return sum;
}

}  // namespace

HYBRID_VERSIONS(ExpSums, exp_sums, (const float* logits, std::size_t n, float peak), (logits, n, peak))
HYBRID_VERSIONS(double, mass_estimate, (const float* logits, std::size_t n, float peak, float coldness),
                (logits, n, peak, coldness))

}  // namespace hybrid
