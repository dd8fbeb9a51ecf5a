// How do several steps follow each other at once? Decode, draw, and what was drawn is what the next step computes.
#include "run.hpp"

namespace hybrid {

std::int32_t run_steps(const Llama& llama, LlamaBatch& batch, std::size_t steps, const volatile bool* is_wanted,
                       const DrawStep& draw, const TellStep& tell) {
    const std::int32_t count = batch.n_tokens;
    std::vector<const float*> rows(static_cast<std::size_t>(count));
    for (std::size_t step = 0; step < steps; ++step) {
        if (const std::int32_t status = llama.decode(llama.context, batch); status != 0) return status;
        for (std::int32_t i = 0; i < count; ++i) {
            const float* const row = llama.logits_at(llama.context, i);
            if (row == nullptr) return NO_ROW;
            rows[static_cast<std::size_t>(i)] = row;
        }
        bool goes_on = draw(step, rows, batch.token) && !*is_wanted && step + 1 < steps;
        for (std::int32_t i = 0; i < count; ++i) {
            goes_on = goes_on && !llama.is_end(llama.vocabulary, batch.token[i]);
            ++batch.pos[i];
        }
        tell(!goes_on);
        if (!goes_on) break;
    }
    return 0;
}

}  // namespace hybrid
