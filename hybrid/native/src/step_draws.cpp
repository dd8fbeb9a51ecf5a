// How are the draws of a step read from Python objects, made on several threads, and told?
#include "step_draws.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>

#include "crew.hpp"

namespace hybrid {
namespace {

constexpr std::size_t kMaxTopLogprobs = 1 << 10;
// Logits of a step below which waking another thread costs more than it saves.
constexpr std::size_t kWorthThreads = 1 << 17;

template <class T>
std::optional<Array<T>> array_of(nb::handle value) {
    if (value.is_none()) return std::nullopt;
    Array<T> array;
    if (!nb::try_cast(value, array, false)) throw nb::type_error("an array of a draw has another type than stated");
    return array;
}

}  // namespace

Scratch& scratch_of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
}

void check_length(std::size_t n_vocab) {
    if (n_vocab == 0 || n_vocab > kMaxVocab)
        throw std::invalid_argument("a row must have 1 to " + std::to_string(kMaxVocab) + " logits; got " +
                                    std::to_string(n_vocab));
}

// A Python integer (numpy's too) as uint64_t; ValueError where it does not fit.
std::uint64_t unsigned_of(nb::handle number, const char* what) {
    nb::object index = nb::steal(PyNumber_Index(number.ptr()));
    if (!index.is_valid()) throw nb::python_error();
    const std::uint64_t value = PyLong_AsUnsignedLongLong(index.ptr());
    if (value == ~std::uint64_t{0} && PyErr_Occurred()) {
        PyErr_Clear();
        throw std::invalid_argument(std::string(what) + " is out of range: " + nb::str(index).c_str());
    }
    return value;
}

Params params_of(nb::handle params) {
    const auto number = [&](const char* name) { return nb::cast<double>(params.attr(name)); };
    return Params{number("temperature"),        number("top_p"),
                  number("min_p"),              number("presence_penalty"),
                  number("frequency_penalty"),  number("repetition_penalty"),
                  nb::cast<std::size_t>(params.attr("top_k"))};
}

Measured measure_and_draw(const RowDraw& wanted) {
    Scratch& scratch = scratch_of_this_thread();
    ExpSums sums;
    const Row row(wanted.logits, wanted.n_vocab, scratch.raw, sums);
    Measured found{};
    found.distribution = measure(row, sums);
    if (wanted.top_logprobs > 0) row.largest(wanted.top_logprobs, found.top);
    found.token = wanted.forced ? *wanted.forced
                                : draw(row, found.distribution.mass, wanted.params, wanted.edits, wanted.point, scratch);
    found.logprob = found.distribution.logprob(wanted.logits[found.token]);
    return found;
}

nb::object told(nb::handle result_class, const Measured& found) {
    nb::list top;
    for (const Candidate& other : found.top)
        top.append(nb::make_tuple(other.token, found.distribution.logprob(other.logit)));
    return result_class(found.token, found.logprob, found.distribution.entropy, found.distribution.margin,
                        nb::tuple(top));
}

void check_edits(const Edits& edits, std::size_t n_vocab) {
    if (edits.bias_tokens.size != edits.bias_values.size)
        throw std::invalid_argument("need one bias value a bias token; got " + std::to_string(edits.bias_tokens.size) +
                                    " tokens and " + std::to_string(edits.bias_values.size) + " values");
    if (edits.has_mask && edits.allowed.size * 32 < n_vocab)
        throw std::invalid_argument(std::to_string(edits.allowed.size) + " words of 32 bits do not cover " +
                                    std::to_string(n_vocab) + " tokens");
}

std::size_t top_count_of(nb::handle top_logprobs) {
    const std::uint64_t count = unsigned_of(top_logprobs, "top_logprobs");
    if (count > kMaxTopLogprobs)
        throw std::invalid_argument("top_logprobs must be in [0, " + std::to_string(kMaxTopLogprobs) + "]");
    return count;
}

namespace {

// `kept` holds what the draw borrows from: an array that is read from an attribute may have no other owner.
RowDraw draw_of(nb::handle wanted, const float* logits, std::size_t n_vocab, std::vector<nb::object>& kept) {
    const auto tokens = [&](const char* name) {
        const nb::object value = wanted.attr(name);
        kept.push_back(value);
        return span_of(array_of<std::int32_t>(value));
    };
    const nb::object bias_values = wanted.attr("bias_values"), allowed = wanted.attr("allowed");
    kept.push_back(bias_values);
    kept.push_back(allowed);
    RowDraw found{logits, n_vocab, params_of(wanted.attr("params")), {}};
    found.edits = Edits{tokens("prompt_tokens"),
                        tokens("output_tokens"),
                        tokens("bias_tokens"),
                        span_of(array_of<float>(bias_values)),
                        span_of(array_of<std::uint32_t>(allowed)),
                        !allowed.is_none()};
    check_edits(found.edits, n_vocab);
    found.seed = unsigned_of(wanted.attr("seed"), "seed");
    found.position = unsigned_of(wanted.attr("position"), "position");
    found.point = uniform(found.seed, found.position);
    found.top_logprobs = top_count_of(wanted.attr("top_logprobs"));
    const nb::object forced = wanted.attr("forced");
    if (!forced.is_none()) {
        const std::uint64_t token = unsigned_of(forced, "forced");
        if (token >= n_vocab)
            throw std::invalid_argument("token " + std::to_string(token) + " is not in [0, " +
                                        std::to_string(n_vocab) + ")");
        found.forced = static_cast<std::int32_t>(token);
    }
    return found;
}

}  // namespace

void StepDraws::draw(const std::vector<RowDraw>& wanted, std::size_t threads) {
    const auto work = [&](std::size_t i) {
        if (!failures[i].empty()) return;
        try {
            found[i] = measure_and_draw(wanted[i]);
        } catch (const std::invalid_argument& broken) {
            failures[i] = broken.what();
        }
    };
    if (!wanted.empty() && wanted.size() * wanted[0].n_vocab < kWorthThreads) threads = 1;
    share(wanted.size(), threads, work);
}

bool StepDraws::is_whole() const {
    return std::all_of(failures.begin(), failures.end(), [](const std::string& why) { return why.empty(); });
}

nb::list StepDraws::told(nb::handle result_class) const {
    nb::list results;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (failures[i].empty())
            results.append(hybrid::told(result_class, found[i]));
        else
            results.append(nb::handle(PyExc_ValueError)(failures[i]));
    }
    return results;
}

std::vector<RowDraw> read_draws(nb::sequence draws, const float* logits, std::size_t n_vocab, StepDraws& step,
                                std::vector<nb::object>& kept) {
    std::vector<RowDraw> wanted(step.found.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        try {
            wanted[i] = draw_of(draws[i], logits == nullptr ? nullptr : logits + i * n_vocab, n_vocab, kept);
        } catch (const std::invalid_argument& refused) {
            step.failures[i] = refused.what();
        }
    }
    return wanted;
}

}  // namespace hybrid
