// Which loops run over a whole row of logits? Each is one pass; the compiler vectorises them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// Several versions of one function in the binary, chosen once when it is loaded. CMake checks that it works here.
#ifdef HYBRID_HAS_TARGET_CLONES
#define HYBRID_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define HYBRID_CLONES
#endif

namespace hybrid {

// Logits whose maximum is kept together: small enough to search, large enough to skip.
constexpr std::size_t kBlock = 64;
// A row that is longer could make a sum of weights inexact; see weight_of.
constexpr std::size_t kMaxVocab = std::size_t{1} << 20;
constexpr float kExpFloor = -87.0f;

// e^value for value <= 0; below -87 exactly 0, NaN stays. Relative error below 1.2e-7.
// Every operation is rounded once (no fused multiply-add: the build sets -ffp-contract=off), so the numpy twin gives
// the same bits. Coefficients: our own minimax fit, see reference.py.
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

// A ratio of [0, 1] rounded to a multiple of 2^-33. Sums of up to 2^20 of these are exact in a double, so the
// order of summation, and with it the algorithm, cannot change which token is drawn.
inline double weight_of(float ratio) {
    constexpr double kGrid = 786432.0;  // 1.5 * 2^19
    return (static_cast<double>(ratio) + kGrid) - kGrid;
}

struct ExpSums {
    double mass;    // sum of e^(x - peak)
    double moment;  // sum of e^(x - peak) * (x - peak)
};

inline std::size_t blocks_of(std::size_t n) { return (n + kBlock - 1) / kBlock; }

// The maximum of each block; NaN is passed over (it shows in exp_sums).
void block_maxima(const float* logits, std::size_t n, float* maxima);

ExpSums exp_sums(const float* logits, std::size_t n, float peak);

// e^((x - peak) * coldness) of each logit.
void exp_ratios(const float* logits, std::size_t n, float peak, float coldness, float* ratios);

// The sum of weight_of over exp_ratios.
double weight_sum(const float* logits, std::size_t n, float peak, float coldness);

}  // namespace hybrid
