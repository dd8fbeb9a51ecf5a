// How are a row's largest values found without sorting it, and its statistics in one pass of exponentials?
#include "row.hpp"
#include "lanes.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

namespace hybrid {
namespace {

[[noreturn]] void throw_no_distribution(const Row& row) {
    const float* end = row.logits() + row.size();
    if (row.peak() > 0.0f || std::any_of(row.logits(), end, [](float x) { return std::isnan(x); }))
        throw std::invalid_argument("logits hold NaN or +inf; the model's output is broken");
    throw std::invalid_argument("no logit is finite; the row is no distribution");
}

}  // namespace

Row::Row(const float* logits, std::size_t n, RowScratch& scratch) : logits_(logits), n_(n), scratch_(scratch) {
    scratch.maxima.resize(groups_of(n));
    group_maxima(logits, n, scratch.maxima.data());
    peak_ = kNegInf;
    for (float x : scratch.maxima) peak_ = x > peak_ ? x : peak_;
}

std::int32_t Row::likeliest() const {
    std::size_t best = n_;
    for (std::size_t group = 0; group < scratch_.maxima.size(); ++group) {
        if (scratch_.maxima[group] != peak_) continue;
        std::size_t i = group_start(group);
        while (logits_[i] != peak_) i += kLanes;
        best = std::min(best, i);
    }
    return static_cast<std::int32_t>(best);
}

float Row::threshold(std::size_t count) const {
    auto& maxima = scratch_.selected;
    maxima = scratch_.maxima;
    if (count >= maxima.size()) return kNegInf;
    std::nth_element(maxima.begin(), maxima.begin() + (count - 1), maxima.end(), std::greater<float>());
    return maxima[count - 1];
}

void Row::largest(std::size_t count, std::vector<Candidate>& out) const {
    // `count` groups reach this threshold, so at least `count` logits do, and none below it is among the largest.
    const float least = threshold(count);
    const auto take = [&](std::size_t i) {
        if (logits_[i] >= least && logits_[i] > kNegInf) out.push_back({logits_[i], static_cast<std::int32_t>(i)});
    };
    out.clear();
    if (count > scratch_.maxima.size() / 4)
        // Most of the row would be visited in strides.
        for (std::size_t i = 0; i < n_; ++i) take(i);
    else
        for (std::size_t group = 0; group < scratch_.maxima.size(); ++group) {
            if (scratch_.maxima[group] < least) continue;
            const std::size_t end = std::min(n_, (group / kLanes + 1) * kSpan);
            for (std::size_t i = group_start(group); i < end; i += kLanes) take(i);
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
    Distribution found{row.peak(), sums.mass, std::log(sums.mass), 0.0, 0.0};
    found.entropy = std::max(0.0, found.log_mass - sums.moment / sums.mass);
    row.largest(2, candidates);
    const double second = candidates.size() > 1 ? std::exp(static_cast<double>(candidates[1].logit) - found.peak) : 0.0;
    found.margin = (1.0 - second) / sums.mass;
    return found;
}

}  // namespace hybrid
