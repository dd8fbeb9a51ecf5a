// How do two threads share a run? One lock around what is drawn and not taken yet; nothing else is common to them.
#include "ahead.hpp"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace hybrid {

StepRun::StepRun(nb::object result_class, const Llama& llama, const LlamaBatch& batch, const volatile bool* is_wanted,
                 nb::sequence draws, std::size_t n_vocab, std::size_t steps, std::size_t threads)
    : result_class_(std::move(result_class)), llama_(llama), batch_(batch), is_wanted_(is_wanted), n_vocab_(n_vocab),
      steps_(steps), threads_(threads), first_(nb::len(draws)), now_(first_.found.size()) {
    check_length(n_vocab);
    const std::size_t count = first_.found.size();
    if (count == 0 || batch.n_tokens < 0 || static_cast<std::size_t>(batch.n_tokens) != count)
        throw std::invalid_argument("a run needs one draw a token; got " + std::to_string(count) + " draws and " +
                                    std::to_string(batch.n_tokens) + " tokens");
    wanted_ = read_draws(draws, nullptr, n_vocab, first_, kept_);
}

std::int32_t StepRun::compute() {
    const nb::gil_scoped_release unlocked;
    // Whoever takes must not wait for ever, however this ends.
    struct Over {
        StepRun& run;
        ~Over() { run.tell(nullptr, true); }
    };
    const Over over{*this};
    return run_steps(
        llama_, batch_, steps_, is_wanted_,
        [this](std::size_t step, const std::vector<const float*>& rows, std::int32_t* tokens) {
            return draw(step, rows, tokens);
        },
        [this](bool is_last) {
            ++done_;
            tell(&now_, is_last);
        });
}

bool StepRun::draw(std::size_t step, const std::vector<const float*>& rows, std::int32_t* tokens) {
    now_ = step == 0 ? first_ : StepDraws(wanted_.size());
    for (std::size_t i = 0; i < wanted_.size(); ++i) {
        wanted_[i].logits = rows[i];
        wanted_[i].point = uniform(wanted_[i].seed, wanted_[i].position + step);
    }
    now_.draw(wanted_, threads_);
    for (std::size_t i = 0; i < wanted_.size(); ++i) tokens[i] = now_.found[i].token;
    return now_.is_whole() && !is_stopped_;
}

void StepRun::tell(StepDraws* step, bool is_last) {
    bool is_awaited;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (step != nullptr) ready_.push_back(std::move(*step));
        is_over_ = is_over_ || is_last;
        is_awaited = awaited_ > 0 && (is_over_ || ready_.size() >= awaited_);
    }
    // A thread that is woken for nothing takes a core from those that compute.
    if (is_awaited) is_last ? told_.ring() : told_.ring_soon();
}

nb::tuple StepRun::take(std::size_t at_least) {
    std::vector<StepDraws> taken;
    bool is_over = false;
    const auto is_there = [&] {
        const std::lock_guard<std::mutex> lock(mutex_);
        const bool is_enough = is_over_ || ready_.size() >= at_least;
        awaited_ = is_enough ? 0 : at_least;
        if (is_enough) taken.swap(ready_);
        is_over = is_over_;
        return is_enough;
    };
    {
        const nb::gil_scoped_release unlocked;
        while (!is_there()) told_.wait();
    }
    nb::list steps;
    for (const StepDraws& step : taken) steps.append(step.told(result_class_));
    return nb::make_tuple(steps, is_over);
}

}  // namespace hybrid
