// How does Python call the kernels? Argument checks, the GIL, and the twin's own result classes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "ahead.hpp"
#include "crew.hpp"
#include "sampler.hpp"
#include "step_draws.hpp"

using namespace nb::literals;

namespace hybrid {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

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
        ExpSums sums;
        const Row row(logits.data(), logits.shape(0), scratch.raw, sums);
        found = measure(row, sums);
    }
    return result_class(found.logprob(logits.data()[index]), found.entropy, found.margin);
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
    nb::class_<StepRun>(module, "StepRun")
        .def(
            "__init__",
            [sampled_class](StepRun* run, std::uintptr_t decode, std::uintptr_t logits_at, std::uintptr_t is_end,
                            std::uintptr_t context, std::uintptr_t vocabulary, std::uintptr_t batch,
                            std::uintptr_t flag, nb::sequence draws, std::size_t n_vocab, std::size_t steps,
                            std::size_t threads) {
                const Llama llama{reinterpret_cast<decltype(Llama::decode)>(decode),
                                  reinterpret_cast<decltype(Llama::logits_at)>(logits_at),
                                  reinterpret_cast<decltype(Llama::is_end)>(is_end), reinterpret_cast<void*>(context),
                                  reinterpret_cast<const void*>(vocabulary)};
                new (run) StepRun(sampled_class, llama, *reinterpret_cast<const LlamaBatch*>(batch),
                                  reinterpret_cast<const volatile bool*>(flag), draws, n_vocab, steps, threads);
            },
            nb::kw_only(), "decode"_a, "logits_at"_a, "is_end"_a, "context"_a, "vocabulary"_a, "batch"_a, "flag"_a,
            "draws"_a, "n_vocab"_a, "steps"_a, "threads"_a = 1)
        .def("compute", &StepRun::compute)
        .def("take", &StepRun::take, "at_least"_a)
        .def("stop", &StepRun::stop)
        .def_prop_ro("done", &StepRun::done);
    module.def(
        "share_with", [](std::uintptr_t parallel) { share_with(reinterpret_cast<Parallel>(parallel)); },
        "gomp_parallel"_a);
    module.def("batch_bytes", [] { return sizeof(LlamaBatch); });
    module.def("abort_callback_address", [] { return reinterpret_cast<std::uintptr_t>(&is_raised); });
    module.def("exp32", &exp32_of, "values"_a.noconvert());
}
