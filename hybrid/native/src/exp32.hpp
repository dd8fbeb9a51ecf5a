// How is e^x computed for whole rows? In float32 operations that every compiler vectorises.
#pragma once

#include <cstdint>
#include <cstring>

#include "versions.hpp"

namespace hybrid {

constexpr float kExpFloor = -87.0f;

// e^value for value <= 0; below -87 exactly 0, NaN stays. Relative error below 8.3e-8.
// Where the file that includes this is compiled with -ffp-contract=off, every operation is rounded once and the result
// has the same bits as the numpy twin's. `static`, because another file lets the compiler fuse operations.
// Coefficients: our own minimax fit, see reference.py.
static HYBRID_INLINE float exp32(float value) {
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

}  // namespace hybrid
