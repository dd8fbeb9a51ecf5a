// How does Python call the kernels? Argument checks, the GIL, and the twin's own result classes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "crew.hpp"
#include "run.hpp"
#include "sampler.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hybrid {
namespace {

constexpr std::size_t kMaxTopLogprobs = 1 << 10;
// Logits of a step below which waking another thread costs more than it saves.
constexpr std::size_t kWorthThreads = 1 << 17;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

Scratch& scratch_of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
}

template <class T>
Span<T> span_of(const std::optional<Array<T>>& array) {
    return array ? Span<T>{array->data(), array->shape(0)} : Span<T>{};
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

struct Measured {
    std::int32_t token;
    Distribution distribution;
    double logprob;
    std::vector<Candidate> top;
};

nb::object row_statistics(nb::handle result_class, const Array<float>& logits, nb::handle token) {
    check_length(logits.shape(0));
    const std::uint64_t index = unsigned_of(token, "token");
    if (index >= logits.shape(0))
        throw std::invalid_argument("token " + std::to_string(index) + " is not in [0, " +
                                    std::to_string(logits.shape(0)) + ")");
    Distribution found;
    {
        nb::gil_scoped_release unlocked;
        Scratch& scratch = scratch_of_this_thread();
        found = measure(Row(logits.data(), logits.shape(0), scratch.raw), scratch.candidates);
    }
    return result_class(found.logprob(logits.data()[index]), found.entropy, found.margin);
}

// One row and how to draw from it; the pointers borrow from Python objects that outlive the call.
struct RowDraw {
    const float* logits;
    std::size_t n_vocab;
    Params params;
    Edits edits;
    double point = 0.0;
    std::size_t top_logprobs = 0;
    std::optional<std::int32_t> forced;
    std::uint64_t seed = 0, position = 0;
};

// Needs no GIL. Throws std::invalid_argument where the row is no distribution or leaves no token.
Measured measure_and_draw(const RowDraw& wanted) {
    Scratch& scratch = scratch_of_this_thread();
    const Row row(wanted.logits, wanted.n_vocab, scratch.raw);
    Measured found{};
    found.distribution = measure(row, scratch.candidates);
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

template <class T>
std::optional<Array<T>> array_of(nb::handle value) {
    if (value.is_none()) return std::nullopt;
    Array<T> array;
    if (!nb::try_cast(value, array, false)) throw nb::type_error("an array of a draw has another type than stated");
    return array;
}

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

// What the rows of one step gave, each alone: a broken one leaves its failure and the others as they are.
struct StepDraws {
    std::vector<Measured> found;
    std::vector<std::string> failures;

    explicit StepDraws(std::size_t count) : found(count), failures(count) {}

    // Needs no GIL.
    void draw(const std::vector<RowDraw>& wanted, std::size_t threads) {
        const auto work = [&](std::size_t i) {
            if (!failures[i].empty()) return;
            try {
                found[i] = measure_and_draw(wanted[i]);
            } catch (const std::invalid_argument& broken) {
                failures[i] = broken.what();
            }
        };
        if (!wanted.empty() && wanted.size() * wanted[0].n_vocab < kWorthThreads) threads = 1;
        Crew::get().run(wanted.size(), threads, work);
    }

    bool is_whole() const {
        return std::all_of(failures.begin(), failures.end(), [](const std::string& why) { return why.empty(); });
    }

    // A Sampled for each row, a ValueError for a broken one.
    nb::list told(nb::handle result_class) const {
        nb::list results;
        for (std::size_t i = 0; i < found.size(); ++i) {
            if (failures[i].empty())
                results.append(hybrid::told(result_class, found[i]));
            else
                results.append(nb::handle(PyExc_ValueError)(failures[i]));
        }
        return results;
    }
};

// Reads the draws of one step; what cannot be read is a failure of its row.
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

nb::list sample_rows(nb::handle result_class, const Rows& logits, nb::sequence draws, std::size_t threads) {
    const std::size_t count = logits.shape(0), n_vocab = logits.shape(1);
    check_length(n_vocab);
    if (nb::len(draws) != count)
        throw std::invalid_argument("need one draw a row; got " + std::to_string(nb::len(draws)) + " draws and " +
                                    std::to_string(count) + " rows");
    std::vector<nb::object> kept;
    StepDraws step(count);
    const std::vector<RowDraw> wanted = read_draws(draws, logits.data(), n_vocab, step, kept);
    {
        nb::gil_scoped_release unlocked;
        step.draw(wanted, threads);
    }
    return step.told(result_class);
}

// Steps that follow each other, with nothing of Python between them; see `run.hpp`. Gives llama.cpp's last status and,
// for each step that was computed, what `sample_rows` gives. The draws are of the first step: position counts up.
nb::tuple run_draws(nb::handle result_class, const Llama& llama, std::uintptr_t batch_address,
                    std::uintptr_t flag_address, nb::sequence draws, std::size_t n_vocab, std::size_t steps,
                    std::size_t threads) {
    check_length(n_vocab);
    LlamaBatch batch = *reinterpret_cast<const LlamaBatch*>(batch_address);
    const std::size_t count = nb::len(draws);
    if (count == 0 || batch.n_tokens < 0 || static_cast<std::size_t>(batch.n_tokens) != count)
        throw std::invalid_argument("a run needs one draw a token; got " + std::to_string(count) + " draws and " +
                                    std::to_string(batch.n_tokens) + " tokens");
    std::vector<nb::object> kept;
    StepDraws first(count);
    std::vector<RowDraw> wanted = read_draws(draws, nullptr, n_vocab, first, kept);
    std::vector<StepDraws> done;
    std::int32_t status = 0;
    {
        nb::gil_scoped_release unlocked;
        status = run_steps(llama, batch, steps, reinterpret_cast<const volatile bool*>(flag_address),
                           [&](std::size_t step, const std::vector<const float*>& rows, std::int32_t* tokens) {
                               StepDraws now = step == 0 ? first : StepDraws(count);
                               for (std::size_t i = 0; i < count; ++i) {
                                   wanted[i].logits = rows[i];
                                   wanted[i].point = uniform(wanted[i].seed, wanted[i].position + step);
                               }
                               now.draw(wanted, threads);
                               for (std::size_t i = 0; i < count; ++i) tokens[i] = now.found[i].token;
                               done.push_back(std::move(now));
                               return done.back().is_whole();
                           });
    }
    nb::list told;
    for (const StepDraws& step : done) told.append(step.told(result_class));
    return nb::make_tuple(status, told);
}

nb::object sample_row(nb::handle result_class, const Array<float>& logits, nb::handle params, nb::handle seed,
                      nb::handle position, const std::optional<Array<std::int32_t>>& prompt_tokens,
                      const std::optional<Array<std::int32_t>>& output_tokens,
                      const std::optional<Array<std::uint32_t>>& allowed,
                      const std::optional<Array<std::int32_t>>& bias_tokens,
                      const std::optional<Array<float>>& bias_values, nb::handle top_logprobs) {
    check_length(logits.shape(0));
    const Edits edits{span_of(prompt_tokens), span_of(output_tokens), span_of(bias_tokens), span_of(bias_values),
                      span_of(allowed),       allowed.has_value()};
    check_edits(edits, logits.shape(0));
    const RowDraw wanted{logits.data(),
                      logits.shape(0),
                      params_of(params),
                      edits,
                      uniform(unsigned_of(seed, "seed"), unsigned_of(position, "position")),
                      top_count_of(top_logprobs),
                      std::nullopt};
    Measured found;
    {
        nb::gil_scoped_release unlocked;
        found = measure_and_draw(wanted);
    }
    return told(result_class, found);
}

// For the test that holds it against the twin's.
nb::ndarray<nb::numpy, float, nb::ndim<1>> exp32_of(const Array<float>& values) {
    auto result = std::make_unique<std::vector<float>>(values.data(), values.data() + values.shape(0));
    for (float& value : *result) value = exp32(value);
    std::vector<float>* held = result.release();
    const nb::capsule owner(held, [](void* vector) noexcept { delete static_cast<std::vector<float>*>(vector); });
    return {held->data(), {held->size()}, owner};
}

// llama.cpp asks this between two operations, from the threads that compute, none of which has the GIL.
bool is_raised(void* flag) { return *static_cast<const volatile bool*>(flag); }

}  // namespace
}  // namespace hybrid

NB_MODULE(_native, module) {
    using namespace hybrid;
    const nb::module_ twin = nb::module_::import_("hybrid.native.reference");
    const nb::object statistics_class = twin.attr("RowStatistics");
    const nb::object sampled_class = twin.attr("Sampled");
    module.def(
        "row_statistics",
        [statistics_class](const Array<float>& logits, nb::handle token) {
            return row_statistics(statistics_class, logits, token);
        },
        "logits"_a.noconvert(), "token"_a);
    module.def(
        "sample_row",
        [sampled_class](const Array<float>& logits, nb::handle params, nb::handle seed, nb::handle position,
                        const std::optional<Array<std::int32_t>>& prompt_tokens,
                        const std::optional<Array<std::int32_t>>& output_tokens,
                        const std::optional<Array<std::uint32_t>>& allowed,
                        const std::optional<Array<std::int32_t>>& bias_tokens,
                        const std::optional<Array<float>>& bias_values, nb::handle top_logprobs) {
            return sample_row(sampled_class, logits, params, seed, position, prompt_tokens, output_tokens, allowed,
                              bias_tokens, bias_values, top_logprobs);
        },
        "logits"_a.noconvert(), "params"_a, nb::kw_only(), "seed"_a, "position"_a,
        "prompt_tokens"_a.noconvert() = nb::none(), "output_tokens"_a.noconvert() = nb::none(),
        "allowed"_a.noconvert() = nb::none(), "bias_tokens"_a.noconvert() = nb::none(),
        "bias_values"_a.noconvert() = nb::none(), "top_logprobs"_a = 0);
    module.def(
        "sample_rows",
        [sampled_class](const Rows& logits, nb::sequence draws, std::size_t threads) {
            return sample_rows(sampled_class, logits, draws, threads);
        },
        "logits"_a.noconvert(), "draws"_a, nb::kw_only(), "threads"_a = 1);
    module.def(
        "run_draws",
        [sampled_class](std::uintptr_t decode, std::uintptr_t logits_at, std::uintptr_t is_end, std::uintptr_t context,
                        std::uintptr_t vocabulary, std::uintptr_t batch, std::uintptr_t flag, nb::sequence draws,
                        std::size_t n_vocab, std::size_t steps, std::size_t threads) {
            const Llama llama{reinterpret_cast<decltype(Llama::decode)>(decode),
                              reinterpret_cast<decltype(Llama::logits_at)>(logits_at),
                              reinterpret_cast<decltype(Llama::is_end)>(is_end), reinterpret_cast<void*>(context),
                              reinterpret_cast<const void*>(vocabulary)};
            return run_draws(sampled_class, llama, batch, flag, draws, n_vocab, steps, threads);
        },
        nb::kw_only(), "decode"_a, "logits_at"_a, "is_end"_a, "context"_a, "vocabulary"_a, "batch"_a, "flag"_a,
        "draws"_a, "n_vocab"_a, "steps"_a, "threads"_a = 1);
    module.def("batch_bytes", [] { return sizeof(LlamaBatch); });
    module.def("abort_callback_address", [] { return reinterpret_cast<std::uintptr_t>(&is_raised); });
    module.def("exp32", &exp32_of, "values"_a.noconvert());
}
