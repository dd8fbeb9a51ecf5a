// What does it take to call llama.cpp again and again, without Python between two steps?
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace hybrid {

// Layout: `struct llama_batch` in llama.cpp's include/llama.h; `llama_batch.py` compares the size with the library's.
struct LlamaBatch {
    std::int32_t n_tokens;
    std::int32_t* token;
    float* embd;
    std::int32_t* pos;
    std::int32_t* n_seq_id;
    std::int32_t** seq_id;
    std::int8_t* logits;
};

// Functions of llama.cpp by their addresses: this extension is built without the library.
struct Llama {
    std::int32_t (*decode)(void* context, LlamaBatch batch);
    float* (*logits_at)(void* context, std::int32_t row);
    bool (*is_end)(const void* vocabulary, std::int32_t token);
    void* context;
    const void* vocabulary;
};

// What `run_steps` gives where a step succeeded without the rows it was to have; none of `llama_decode`'s own.
constexpr std::int32_t NO_ROW = -100;

// Draws from the rows of one step; gives the token of each, or nothing where a row gave none.
using DrawStep = std::function<bool(std::size_t step, const std::vector<const float*>& rows, std::int32_t* tokens)>;

// Hears that a step was drawn from, and whether it is the last.
using TellStep = std::function<void(bool is_last)>;

// Computes up to `steps` steps of a batch in which each token is another sequence's and wants its row. What a step draws
// is the next one's input. Ends early when a token ends its text, a row gave no token, or `is_wanted` was raised.
// Gives what `llama_decode` said last, or `NO_ROW`: 0, or why the step after those that `draw` saw did not happen.
std::int32_t run_steps(const Llama& llama, LlamaBatch& batch, std::size_t steps, const volatile bool* is_wanted,
                       const DrawStep& draw, const TellStep& tell);

}  // namespace hybrid
