// How are a row's largest values found without sorting it, and its statistics in one pass of exponentials?
#include "row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace hybrid {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

[[noreturn]] void throw_no_distribution(const Row& row) {
    const float* end = row.logits() + row.size();
    if (row.peak() > 0.0f || std::any_of(row.logits(), end, [](float x) { return std::isnan(x); }))
        throw std::invalid_argument("logits hold NaN or +inf; the model's output is broken");
    throw std::invalid_argument("no logit is finite; the row is no distribution");
}

}  // namespace

Row::Row(const float* logits, std::size_t n, RowScratch& scratch) : logits_(logits), n_(n), scratch_(scratch) {
    scratch.maxima.resize(blocks_of(n));
    block_maxima(logits, n, scratch.maxima.data());
    peak_ = kNegInf;
    for (float x : scratch.maxima) peak_ = x > peak_ ? x : peak_;
}

std::int32_t Row::likeliest() const {
    const auto& maxima = scratch_.maxima;
    const std::size_t block = std::find(maxima.begin(), maxima.end(), peak_) - maxima.begin();
    return static_cast<std::int32_t>(std::find(logits_ + block * kBlock, logits_ + n_, peak_) - logits_);
}

void Row::largest(std::size_t count, std::vector<Candidate>& out) const {
    const auto& maxima = scratch_.maxima;
    // `count` blocks reach the count-th largest block maximum, so at least `count` logits do: nothing below it counts.
    float threshold = kNegInf;
    if (count < maxima.size()) {
        auto& selected = scratch_.selected;
        selected = maxima;
        std::nth_element(selected.begin(), selected.begin() + (count - 1), selected.end(), std::greater<float>());
        threshold = selected[count - 1];
    }
    out.clear();
    for (std::size_t block = 0; block < maxima.size(); ++block) {
        if (maxima[block] < threshold) continue;
        const std::size_t end = std::min(n_, (block + 1) * kBlock);
        for (std::size_t i = block * kBlock; i < end; ++i)
            if (logits_[i] >= threshold && logits_[i] > kNegInf) out.push_back({logits_[i], static_cast<std::int32_t>(i)});
    }
    if (out.size() > count) {
        std::nth_element(out.begin(), out.begin() + count, out.end(), comes_before);
        out.resize(count);
    }
    std::sort(out.begin(), out.end(), comes_before);
}

Distribution measure(const Row& row, std::vector<Candidate>& candidates) {
    if (!std::isfinite(row.peak())) throw_no_distribution(row);
    const ExpSums sums = exp_sums(row.logits(), row.size(), row.peak());
    if (std::isnan(sums.mass)) throw_no_distribution(row);
    Distribution found{row.peak(), std::log(sums.mass), 0.0, 0.0};
    found.entropy = std::max(0.0, found.log_mass - sums.moment / sums.mass);
    row.largest(2, candidates);
    const double second = candidates.size() > 1 ? std::exp(static_cast<double>(candidates[1].logit) - found.peak) : 0.0;
    found.margin = (1.0 - second) / sums.mass;
    return found;
}

}  // namespace hybrid
