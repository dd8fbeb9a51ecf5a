// How does Python call the kernels? Argument checks, the GIL, and the twin's own result classes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "sampler.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hybrid {
namespace {

constexpr std::size_t kMaxTopLogprobs = 1 << 10;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Scratch& scratch_of_this_thread() {
    thread_local Scratch scratch;
    return scratch;
}

template <class T>
Span<T> span_of(const std::optional<Array<T>>& array) {
    return array ? Span<T>{array->data(), array->shape(0)} : Span<T>{};
}

void check_row(const Array<float>& logits) {
    if (logits.shape(0) == 0 || logits.shape(0) > kMaxVocab)
        throw std::invalid_argument("a row must have 1 to " + std::to_string(kMaxVocab) + " logits; got " +
                                    std::to_string(logits.shape(0)));
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
    check_row(logits);
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

Measured measure_and_draw(const Array<float>& logits, const Params& params, const Edits& edits, double point,
                          std::size_t top_logprobs) {
    nb::gil_scoped_release unlocked;
    Scratch& scratch = scratch_of_this_thread();
    const Row row(logits.data(), logits.shape(0), scratch.raw);
    Measured found{};
    found.distribution = measure(row, scratch.candidates);
    if (top_logprobs > 0) row.largest(top_logprobs, found.top);
    found.token = draw(row, found.distribution.mass, params, edits, point, scratch);
    found.logprob = found.distribution.logprob(logits.data()[found.token]);
    return found;
}

nb::object sample_row(nb::handle result_class, const Array<float>& logits, nb::handle params, nb::handle seed,
                      nb::handle position, const std::optional<Array<std::int32_t>>& prompt_tokens,
                      const std::optional<Array<std::int32_t>>& output_tokens,
                      const std::optional<Array<std::uint32_t>>& allowed,
                      const std::optional<Array<std::int32_t>>& bias_tokens,
                      const std::optional<Array<float>>& bias_values, nb::handle top_logprobs) {
    check_row(logits);
    const Edits edits{span_of(prompt_tokens), span_of(output_tokens), span_of(bias_tokens), span_of(bias_values),
                      span_of(allowed),       allowed.has_value()};
    if (edits.bias_tokens.size != edits.bias_values.size)
        throw std::invalid_argument("need one bias value a bias token; got " + std::to_string(edits.bias_tokens.size) +
                                    " tokens and " + std::to_string(edits.bias_values.size) + " values");
    if (edits.has_mask && edits.allowed.size * 32 < logits.shape(0))
        throw std::invalid_argument(std::to_string(edits.allowed.size) + " words of 32 bits do not cover " +
                                    std::to_string(logits.shape(0)) + " tokens");
    const std::uint64_t top_count = unsigned_of(top_logprobs, "top_logprobs");
    if (top_count > kMaxTopLogprobs)
        throw std::invalid_argument("top_logprobs must be in [0, " + std::to_string(kMaxTopLogprobs) + "]");
    const double point = uniform(unsigned_of(seed, "seed"), unsigned_of(position, "position"));
    const Measured found = measure_and_draw(logits, params_of(params), edits, point, top_count);
    nb::list top;
    for (const Candidate& other : found.top)
        top.append(nb::make_tuple(other.token, found.distribution.logprob(other.logit)));
    return result_class(found.token, found.logprob, found.distribution.entropy, found.distribution.margin,
                        nb::tuple(top));
}

// For the test that holds it against the twin's.
nb::ndarray<nb::numpy, float, nb::ndim<1>> exp32_of(const Array<float>& values) {
    auto result = std::make_unique<std::vector<float>>(values.data(), values.data() + values.shape(0));
    for (float& value : *result) value = exp32(value);
    std::vector<float>* held = result.release();
    const nb::capsule owner(held, [](void* vector) noexcept { delete static_cast<std::vector<float>*>(vector); });
    return {held->data(), {held->size()}, owner};
}

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
    module.def("exp32", &exp32_of, "values"_a.noconvert());
}
