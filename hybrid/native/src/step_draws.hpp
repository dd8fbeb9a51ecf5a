// How does Python say what to draw, and hear what was drawn? One row, or all rows of a step.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "sampler.hpp"

namespace nb = nanobind;

namespace hybrid {

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
Span<T> span_of(const std::optional<Array<T>>& array) {
    return array ? Span<T>{array->data(), array->shape(0)} : Span<T>{};
}

// Scratch memory that stays with its thread.
Scratch& scratch_of_this_thread();

// The rest throws std::invalid_argument, or what Python raised, where an argument is no good.
void check_length(std::size_t n_vocab);
void check_edits(const Edits& edits, std::size_t n_vocab);
std::uint64_t unsigned_of(nb::handle number, const char* what);
std::size_t top_count_of(nb::handle top_logprobs);
Params params_of(nb::handle params);

struct Measured {
    std::int32_t token;
    Distribution distribution;
    double logprob;
    std::vector<Candidate> top;
};

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
Measured measure_and_draw(const RowDraw& wanted);

// As an instance of the twin's own class.
nb::object told(nb::handle result_class, const Measured& found);

// What the rows of one step gave, each alone: a broken one leaves its failure and the others as they are.
struct StepDraws {
    std::vector<Measured> found;
    std::vector<std::string> failures;

    explicit StepDraws(std::size_t count) : found(count), failures(count) {}

    // Needs no GIL.
    void draw(const std::vector<RowDraw>& wanted, std::size_t threads);

    bool is_whole() const;

    // A Sampled for each row, a ValueError for a broken one.
    nb::list told(nb::handle result_class) const;
};

// Reads the draws of one step; what cannot be read is a failure of its row. `kept` holds what the draws borrow from.
std::vector<RowDraw> read_draws(nb::sequence draws, const float* logits, std::size_t n_vocab, StepDraws& step,
                                std::vector<nb::object>& kept);

}  // namespace hybrid
