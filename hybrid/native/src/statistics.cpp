// How are a row's exponentials summed in one pass? The only file compiled with fused multiply-add, for what agrees
// with the twin within a tolerance. The draw agrees bit for bit, so it takes nothing from here but bounds.
#include "kernels.hpp"
#include "lanes.hpp"

namespace hybrid {
namespace {

constexpr std::size_t kRows = 16;
constexpr std::size_t kChunk = kRows * kLanes;

// e^value for value <= 0; below -87 exactly 0, NaN stays. exp32 has the twin's bits, this one fewer operations: the
// fraction is not split in two, which loses 6e-8 a nat where nothing is fused, and the power of two is added to the
// exponent. Relative error below 1.9e-7 + 6e-8 * |value|. Coefficients: our own minimax fit of 2^f on [-1/2, 1/2]
// among those that are 1 at 0, 9.2e-8 before rounding.
HYBRID_INLINE float quick_exp(float value) {
    constexpr float kRound = 12582912.0f;  // as in exp32
    constexpr float kLog2E = 1.44269504f;
    const float clamped = value < kExpFloor ? kExpFloor : value;
    const float shifted = clamped * kLog2E + kRound;
    const float rest = clamped * kLog2E - (shifted - kRound);
    float power = 0x1.5bba14p-10f;
    power = power * rest + 0x1.3cea88p-7f;
    power = power * rest + 0x1.c6b752p-5f;
    power = power * rest + 0x1.ebf9bcp-3f;
    power = power * rest + 0x1.62e42ap-1f;
    power = power * rest + 1.0f;
    std::uint32_t exponent, bits;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&bits, &power, sizeof bits);
    bits += exponent << 23;  // of kRound's own bits none is left
    std::memcpy(&power, &bits, sizeof power);
    return value < kExpFloor ? 0.0f : power;
}

HYBRID_INLINE void add_chunk(const float* chunk, float peak, double* mass, double* moment) {
    // Neighbours are added in float32 before they join the float64 sums: half the time, and an error that stays below
    // 1e-6 of sums that are inexact anyway.
    float ratios[kLanes] = {}, products[kLanes] = {};
    for (std::size_t row = 0; row < kRows; ++row)
        for (std::size_t j = 0; j < kLanes; ++j) {
            const float distance = chunk[row * kLanes + j] - peak;
            const float ratio = quick_exp(distance);
            ratios[j] += ratio;
            // Clamped, because 0 * -inf would be NaN.
            products[j] += ratio * (distance < kExpFloor ? kExpFloor : distance);
        }
    for (std::size_t j = 0; j < kLanes; ++j) {
        mass[j] += ratios[j];
        moment[j] += products[j];
    }
}

// What is summed next, the piece of the row after this one, is fetched meanwhile; behind the row's end that is no error.
HYBRID_INLINE void prefetch(const float* place) {
#if defined(__GNUC__)
    __builtin_prefetch(place);
#else
    (void)place;
#endif
}

HYBRID_INLINE ExpSums exp_sums_body(const float* logits, std::size_t n, float peak) {
    double mass[kLanes] = {}, moment[kLanes] = {};
    for (std::size_t i = 0; i + kChunk <= n; i += kChunk) {
        for (std::size_t row = 0; row < kRows; ++row) prefetch(logits + i + n + row * kLanes);
        add_chunk(logits + i, peak, mass, moment);
    }
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
        for (std::size_t j = 0; j < kLanes; ++j) ratios[j] += quick_exp((chunk[row * kLanes + j] - peak) * coldness);
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
