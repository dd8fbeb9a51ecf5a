// What is known about one row of logits? Its peak, where the large values are, and its softmax statistics.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace hybrid {

struct Candidate {
    float logit;
    std::int32_t token;
};

// Largest logit first, equals by lowest id: the order of everything here.
inline bool comes_before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// Buffers that outlive a call, so that a step allocates nothing once warm. One per thread.
struct RowScratch {
    std::vector<float> maxima;
    std::vector<float> selected;
};

// A row and the maxima of its groups; borrows both.
class Row {
  public:
    Row(const float* logits, std::size_t n, RowScratch& scratch);

    // The same, and the sums about the peak: both in one look at memory, for a row is larger than the nearest cache.
    Row(const float* logits, std::size_t n, RowScratch& scratch, ExpSums& sums);

    const float* logits() const { return logits_; }
    std::size_t size() const { return n_; }
    float peak() const { return peak_; }  // -inf where no logit is above it
    std::int32_t likeliest() const;
    float second() const;  // the largest logit but one, which may equal the peak; -inf where there is none

    // The `count` largest finite logits in order; fewer where the row has fewer.
    void largest(std::size_t count, std::vector<Candidate>& out) const;

  private:
    float threshold(std::size_t count) const;

    const float* logits_;
    std::size_t n_;
    RowScratch& scratch_;
    float peak_;
};

struct Distribution {
    double peak;
    double mass;  // sum of e^(x - peak)
    double log_mass;
    double entropy;
    double margin;

    double logprob(float logit) const { return (static_cast<double>(logit) - peak) - log_mass; }
};

// Throws std::invalid_argument for a row that is no distribution. `sums` are the row's.
Distribution measure(const Row& row, const ExpSums& sums);

}  // namespace hybrid
