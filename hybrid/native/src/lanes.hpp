// How do passes over a row deal with its last, short piece? They fill it up with logits that weigh nothing.
#pragma once

#include <cstddef>
#include <limits>

namespace hybrid {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

template <std::size_t kChunk>
struct Tail {
    float logits[kChunk];

    Tail(const float* row, std::size_t n) {
        const std::size_t start = n - n % kChunk;
        for (std::size_t j = 0; j < kChunk; ++j) logits[j] = start + j < n ? row[start + j] : kNegInf;
    }
};

}  // namespace hybrid
