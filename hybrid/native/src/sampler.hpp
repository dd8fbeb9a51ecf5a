// How is one token drawn from a row? Edits, filters and an inverse CDF whose sums are exact.
#pragma once

#include <cstdint>
#include <vector>

#include "row.hpp"

namespace hybrid {

template <class T>
struct Span {
    const T* data = nullptr;
    std::size_t size = 0;

    const T* begin() const { return data; }
    const T* end() const { return data + size; }
};

// As SampleParams in reference.py, which checks the ranges.
struct Params {
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    std::size_t top_k;
};

struct Edits {
    Span<std::int32_t> prompt_tokens, output_tokens, bias_tokens;
    Span<float> bias_values;
    Span<std::uint32_t> allowed;
    bool has_mask = false;
};

struct Scratch {
    RowScratch raw, edited;
    std::vector<float> logits, ratios, weights;
    std::vector<std::int32_t> counts;
    std::vector<Candidate> candidates;
    std::vector<std::uint16_t> buckets;
};

// The point of [0, 1) that belongs to a seed and a position; as `uniform` in reference.py.
double uniform(std::uint64_t seed, std::uint64_t position);

// Draws from `raw`, whose exponentials sum to about `mass`, after `edits`.
// Throws std::invalid_argument where no token is left or an id is out of range.
std::int32_t draw(const Row& raw, double mass, const Params& params, const Edits& edits, double point,
                  Scratch& scratch);

}  // namespace hybrid
