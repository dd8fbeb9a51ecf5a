// How is one token drawn? As in reference.py, but looking at as few logits as the answer needs.
#include "sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

namespace hybrid {
namespace {

constexpr std::int32_t kUndecided = -1;

std::uint64_t mix64(std::uint64_t state) {
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

void check_tokens(Span<std::int32_t> tokens, std::size_t n) {
    for (std::int32_t token : tokens)
        if (token < 0 || static_cast<std::size_t>(token) >= n)
            throw std::invalid_argument("token " + std::to_string(token) + " is not in [0, " + std::to_string(n) + ")");
}

void add_bias(std::vector<float>& row, Span<std::int32_t> tokens, Span<float> values) {
    for (float value : values)
        if (!(value < std::numeric_limits<float>::infinity()))
            throw std::invalid_argument("a bias is NaN or +inf; -inf bans a token");
    for (std::size_t i = 0; i < tokens.size; ++i) row[tokens.data[i]] += values.data[i];
}

// Divides what favours a token and multiplies what speaks against it, once for each token seen.
// `counts` is all zero before and after.
void penalise_repetition(std::vector<float>& row, double penalty, const Edits& edits,
                         std::vector<std::int32_t>& counts) {
    for (auto tokens : {edits.prompt_tokens, edits.output_tokens})
        for (std::int32_t token : tokens) {
            if (counts[token]++ != 0) continue;
            const double held = row[token];
            row[token] = static_cast<float>(held > 0.0 ? held / penalty : held * penalty);
        }
    for (auto tokens : {edits.prompt_tokens, edits.output_tokens})
        for (std::int32_t token : tokens) counts[token] = 0;
}

void penalise_output(std::vector<float>& row, const Params& params, Span<std::int32_t> output,
                     std::vector<std::int32_t>& counts) {
    for (std::int32_t token : output) ++counts[token];
    for (std::int32_t token : output) {
        if (counts[token] == 0) continue;
        const double penalty = static_cast<double>(counts[token]) * params.frequency_penalty + params.presence_penalty;
        row[token] = static_cast<float>(static_cast<double>(row[token]) - penalty);
        counts[token] = 0;
    }
}

// Whether anything was changed; then scratch.logits holds the edited row.
bool edit(const Row& raw, const Params& params, const Edits& edits, Scratch& scratch) {
    for (auto tokens : {edits.prompt_tokens, edits.output_tokens, edits.bias_tokens}) check_tokens(tokens, raw.size());
    const bool has_repetition =
        params.repetition_penalty != 1.0 && edits.prompt_tokens.size + edits.output_tokens.size > 0;
    const bool has_output =
        (params.presence_penalty != 0.0 || params.frequency_penalty != 0.0) && edits.output_tokens.size > 0;
    if (!has_repetition && !has_output && !edits.has_mask && edits.bias_tokens.size == 0) return false;
    auto& row = scratch.logits;
    row.assign(raw.logits(), raw.logits() + raw.size());
    if (scratch.counts.size() < raw.size()) scratch.counts.resize(raw.size());
    add_bias(row, edits.bias_tokens, edits.bias_values);
    if (has_repetition) penalise_repetition(row, params.repetition_penalty, edits, scratch.counts);
    if (has_output) penalise_output(row, params, edits.output_tokens, scratch.counts);
    if (edits.has_mask) apply_mask(row.data(), row.size(), edits.allowed.data);
    return true;
}

// The filters and the draw over one edited row.
class Draw {
  public:
    Draw(const Row& row, const Params& params, double point, Scratch& scratch)
        : row_(row), params_(params), point_(point), scratch_(scratch), min_ratio_(static_cast<float>(params.min_p)),
          coldness_(static_cast<float>(params.temperature > 1e-30 ? std::min(1.0 / params.temperature, 1e30) : 1e30)) {}

    // `mass` is about the sum of e^(x - peak), if known.
    std::int32_t token(std::optional<double> mass) {
        if (params_.top_k > 0) {
            take(params_.top_k);
            return among_all();
        }
        const bool needs_total = params_.top_p < 1.0 || params_.min_p == 0.0;
        std::int32_t found = kUndecided;
        if (!needs_total)
            found = among_likeliest([] { return Between{0.0, 0.0}; });
        else if (mass && coldness_ > 1.0f)
            found = among_likeliest([&] { return cooled(*mass); });
        if (found == kUndecided && needs_total) {
            const std::size_t n = row_.size();
            if (!mass || coldness_ != 1.0f) mass = mass_estimate(row_.logits(), n, row_.peak(), coldness_);
            const double error = mass_error(*mass, n);
            found = among_likeliest([&] { return Between{*mass - error, *mass + error}; });
        }
        return found != kUndecided ? found : among_buckets();
    }

  private:
    struct Between {
        double low, high;
    };

    // What the first tokens of the order decide, whose weights and all others sum to something between two bounds.
    template <class Total>
    std::int32_t among_likeliest(const Total& total) {
        for (std::size_t count : {std::size_t{40}, std::size_t{400}}) {
            take(count);
            if (scratch_.candidates.size() < count) return among_all();
            // What is decided only moves one way as the total grows: equal at both bounds is equal in between.
            const Between bounds = total();
            const std::int32_t least = among_first(bounds.low);
            if (least != kUndecided && least == among_first(bounds.high)) return least;
        }
        return kUndecided;
    }

    // The sum of all weights at a temperature below 1, from the mass at 1: of what comes after the candidates nothing is
    // above the last of these, so cooling takes from each at least what it takes from that one.
    Between cooled(double mass) const {
        constexpr double kRoom = 1e-5;  // more than float32 loses of an exponential within 24 nats
        double known = 0.0, warm = 0.0;
        for (std::size_t i = 0; i < scratch_.candidates.size(); ++i) {
            known += weight_of(scratch_.ratios[i]);
            warm += exp32(scratch_.candidates[i].logit - row_.peak());
        }
        const double depth = static_cast<double>(scratch_.candidates.back().logit) - row_.peak();
        const double rest = std::max(0.0, mass + mass_error(mass, row_.size()) - warm * (1.0 - kRoom));
        const double shrunk = rest * std::exp(depth * (coldness_ - 1.0)) * (1.0 + kRoom);
        return {known, known + shrunk + static_cast<double>(row_.size()) * 0x1p-33};
    }

    void take(std::size_t count) {
        row_.largest(count, scratch_.candidates);
        weigh();
    }

    // ratios[i] of candidate i.
    void weigh() {
        const auto& candidates = scratch_.candidates;
        scratch_.ratios.resize(candidates.size());
        for (std::size_t i = 0; i < candidates.size(); ++i)
            scratch_.ratios[i] = exp32((candidates[i].logit - row_.peak()) * coldness_);
    }

    // Where the candidates are all there are.
    std::int32_t among_all() const {
        double total = 0.0;
        for (float ratio : scratch_.ratios) total += weight_of(ratio);
        return scratch_.candidates[pick_below(kept_mass(params_.top_p * total).value_or(total))].token;
    }

    // Where the candidates are only the first of the order: what they decide if all weights sum to `total`.
    std::int32_t among_first(double total) const {
        std::optional<double> kept = kept_mass(params_.top_p * total);
        if (!kept && (params_.top_p < 1.0 || params_.min_p > 0.0)) return kUndecided;
        const std::size_t index = pick_below(kept.value_or(total));
        return index < scratch_.candidates.size() ? scratch_.candidates[index].token : kUndecided;
    }

    // The weight that top_p (as the mass to reach) and min_p leave; nothing where neither ends among the candidates.
    std::optional<double> kept_mass(double nucleus) const {
        double sum = 0.0;
        for (float ratio : scratch_.ratios) {
            if (params_.min_p > 0.0 && ratio < min_ratio_) return sum;
            sum += weight_of(ratio);
            if (params_.top_p < 1.0 && sum >= nucleus) return sum;
        }
        return std::nullopt;
    }

    std::size_t pick_below(double kept) const {
        double sum = 0.0;
        return pick(sum, point_ * kept, kept);
    }

    // The first candidate whose cumulative weight passes `target` or, where rounding put that on `kept`, reaches it.
    std::size_t pick(double& sum, double target, double kept) const {
        const auto& ratios = scratch_.ratios;
        std::size_t i = 0;
        for (; i < ratios.size(); ++i) {
            sum += weight_of(ratios[i]);
            if (sum > target || sum >= kept) break;
        }
        return i;
    }

    // The order cut into buckets of close logits: only those where a limit or the target falls are ever sorted.
    std::int32_t among_buckets() {
        fill_buckets();
        double total = 0.0;
        for (double mass : mass_) total += mass;
        double kept = total;
        if (params_.top_p < 1.0) kept = std::min(kept, nucleus_mass(params_.top_p * total));
        if (params_.min_p > 0.0) kept = std::min(kept, likely_mass());
        const double target = point_ * kept;
        double sum = 0.0;
        for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
            const double after = sum + mass_[bucket];
            if (after > target || after >= kept) {
                sort_bucket(bucket);
                return scratch_.candidates[pick(sum, target, kept)].token;
            }
            sum = after;
        }
        return row_.likeliest();  // not reached: the last bucket brings the sum to at least `kept`
    }

    void fill_buckets() {
        const std::size_t n = row_.size();
        scratch_.weights.resize(n);
        scratch_.buckets.resize((n + kBucketRun - 1) / kBucketRun * kBucketRun);
        std::fill(scratch_.buckets.begin() + n, scratch_.buckets.end(), kNoBucket);
        weights_and_buckets(row_.logits(), n, row_.peak(), coldness_, scratch_.weights.data(), scratch_.buckets.data());
        // Neighbours go to different tables: adding to one entry twice in a row would wait for the first store.
        std::array<std::array<double, kBuckets>, 4> masses{};
        for (std::size_t i = 0; i < n; ++i) masses[i % 4][scratch_.buckets[i]] += scratch_.weights[i];
        for (std::size_t bucket = 0; bucket < kBuckets; ++bucket)
            mass_[bucket] = (masses[0][bucket] + masses[1][bucket]) + (masses[2][bucket] + masses[3][bucket]);
    }

    // Into scratch_.candidates and .ratios: the bucket's tokens that can be drawn, in order.
    void sort_bucket(std::size_t bucket) {
        auto& candidates = scratch_.candidates;
        const auto wanted = static_cast<std::uint16_t>(bucket);
        candidates.clear();
        const std::uint16_t* buckets = scratch_.buckets.data();
        const std::size_t n = scratch_.buckets.size();
        for (std::size_t run = next_run(buckets, n, 0, wanted); run < n;
             run = next_run(buckets, n, run + kBucketRun, wanted))
            for (std::size_t i = run; i < run + kBucketRun; ++i)
                if (buckets[i] == wanted && scratch_.weights[i] > 0.0f)
                    candidates.push_back({row_.logits()[i], static_cast<std::int32_t>(i)});
        std::sort(candidates.begin(), candidates.end(), comes_before);
        weigh();
    }

    double nucleus_mass(double limit) {
        double sum = 0.0;
        for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
            if (sum + mass_[bucket] < limit) {
                sum += mass_[bucket];
                continue;
            }
            sort_bucket(bucket);
            for (float ratio : scratch_.ratios) {
                sum += weight_of(ratio);
                if (sum >= limit) return sum;
            }
        }
        return sum;
    }

    double likely_mass() {
        // exp32 is not exact, so the search starts one bucket early.
        const double depth = -std::log(static_cast<double>(min_ratio_)) * kBucketsPerNat - 1.0;
        const auto first = depth < kBuckets ? static_cast<std::size_t>(std::max(depth, 0.0)) : kBuckets;
        double sum = 0.0;
        for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
            if (bucket < first || mass_[bucket] == 0.0) {
                sum += mass_[bucket];
                continue;
            }
            sort_bucket(bucket);
            for (float ratio : scratch_.ratios) {
                if (ratio < min_ratio_) return sum;
                sum += weight_of(ratio);
            }
        }
        return sum;
    }

    static constexpr std::uint16_t kNoBucket = 0xFFFF;

    const Row& row_;
    const Params& params_;
    const double point_;
    Scratch& scratch_;
    const float min_ratio_;
    const float coldness_;
    std::array<double, kBuckets> mass_;
};

}  // namespace

double uniform(std::uint64_t seed, std::uint64_t position) {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15u;
    const std::uint64_t start = mix64(seed + kGolden);
    return static_cast<double>(mix64(start + (position + 1) * kGolden) >> 11) * 0x1p-53;
}

std::int32_t draw(const Row& raw, double mass, const Params& params, const Edits& edits, double point,
                  Scratch& scratch) {
    const auto token = [&](const Row& row, std::optional<double> known_mass) {
        if (!std::isfinite(row.peak()))
            throw std::invalid_argument(row.peak() < 0 ? "bias and mask leave no token to draw"
                                                       : "an edit made a logit infinite");
        return params.temperature == 0.0 ? row.likeliest() : Draw(row, params, point, scratch).token(known_mass);
    };
    if (!edit(raw, params, edits, scratch)) return token(raw, mass);
    return token(Row(scratch.logits.data(), raw.size(), scratch.edited), std::nullopt);
}

}  // namespace hybrid
