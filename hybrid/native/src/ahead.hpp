// What was drawn while the next step is computed already? One thread computes a run of steps, another takes them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "bell.hpp"
#include "run.hpp"
#include "step_draws.hpp"

namespace hybrid {

// One run; see `run_steps`. The draws are of its first step: their positions count up with the steps.
class StepRun {
  public:
    // Throws std::invalid_argument where draws and batch do not fit each other.
    StepRun(nb::object result_class, const Llama& llama, const LlamaBatch& batch, const volatile bool* is_wanted,
            nb::sequence draws, std::size_t n_vocab, std::size_t steps, std::size_t threads);

    // Computes all of it, without the GIL; once. Gives llama.cpp's last status.
    std::int32_t compute();

    // Waits, without the GIL, until so many steps were drawn from that nobody took, or there are no more. Gives for each
    // of them what `sample_rows` gives, and whether the run is over and all of it taken.
    nb::tuple take(std::size_t at_least);

    // Lets it end after the step it is in. Any thread may ask.
    void stop() { is_stopped_ = true; }

    // Steps that were computed and drawn from.
    std::size_t done() const { return done_; }

  private:
    bool draw(std::size_t step, const std::vector<const float*>& rows, std::int32_t* tokens);
    void tell(StepDraws* step, bool is_last);

    nb::object result_class_;
    std::vector<nb::object> kept_;
    const Llama llama_;
    LlamaBatch batch_;
    const volatile bool* const is_wanted_;
    const std::size_t n_vocab_, steps_, threads_;
    StepDraws first_, now_;
    std::vector<RowDraw> wanted_;
    std::atomic<bool> is_stopped_{false};
    std::atomic<std::size_t> done_{0};

    std::mutex mutex_;
    Bell told_;
    std::vector<StepDraws> ready_;   // drawn, not taken
    std::size_t awaited_ = 0;        // how many the taker waits for; 0: nobody waits
    bool is_over_ = false;
};

}  // namespace hybrid
