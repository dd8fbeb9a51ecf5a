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

// 16 KiB: what one pass has read the next finds in the nearest cache.
constexpr std::size_t kBlock = 4 * kSpan;

// Sums about one reference as sums about a larger one.
ExpSums about(float reference, float before, const ExpSums& sums) {
    const double rise = static_cast<double>(reference) - before, scale = std::exp(-rise);
    return {sums.mass * scale, (sums.moment - sums.mass * rise) * scale};
}

}  // namespace

Row::Row(const float* logits, std::size_t n, RowScratch& scratch) : logits_(logits), n_(n), scratch_(scratch) {
    scratch.maxima.resize(groups_of(n));
    group_maxima(logits, n, scratch.maxima.data());
    peak_ = kNegInf;
    for (float x : scratch.maxima) peak_ = x > peak_ ? x : peak_;
}

Row::Row(const float* logits, std::size_t n, RowScratch& scratch, ExpSums& sums)
    : logits_(logits), n_(n), scratch_(scratch), peak_(kNegInf) {
    scratch.maxima.resize(groups_of(n));
    sums = {0.0, 0.0};
    for (std::size_t start = 0; start < n; start += kBlock) {
        const std::size_t count = std::min(kBlock, n - start);
        float* const maxima = scratch.maxima.data() + start / kSpan * kLanes;
        group_maxima(logits + start, count, maxima);
        const float before = peak_;
        for (std::size_t group = 0; group < groups_of(count); ++group)
            peak_ = maxima[group] > peak_ ? maxima[group] : peak_;
        if (peak_ > before && before > kNegInf) sums = about(peak_, before, sums);
        // Where nothing is finite yet the sums are next to 0, or NaN where a logit is.
        const ExpSums more = exp_sums(logits + start, count, peak_ > kNegInf ? peak_ : 0.0f);
        sums = {sums.mass + more.mass, sums.moment + more.moment};
    }
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

float Row::second() const {
    std::size_t top = 0;
    float second = kNegInf;
    for (std::size_t group = 1; group < scratch_.maxima.size(); ++group) {
        const float x = scratch_.maxima[group], best = scratch_.maxima[top];
        if (x > best) top = group;
        second = std::max(second, std::min(x, best));
    }
    std::size_t peaks = 0;
    for (std::size_t i = group_start(top); i < std::min(n_, (top / kLanes + 1) * kSpan); i += kLanes) {
        if (logits_[i] == peak_)
            ++peaks;
        else if (logits_[i] > second)
            second = logits_[i];
    }
    return peaks > 1 ? peak_ : second;
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

Distribution measure(const Row& row, const ExpSums& sums) {
    if (!std::isfinite(row.peak())) throw_no_distribution(row);
    if (std::isnan(sums.mass)) throw_no_distribution(row);
    Distribution found{row.peak(), sums.mass, std::log(sums.mass), 0.0, 0.0};
    found.entropy = std::max(0.0, found.log_mass - sums.moment / sums.mass);
    found.margin = (1.0 - std::exp(row.second() - found.peak)) / sums.mass;
    return found;
}

}  // namespace hybrid
