// How do threads work at the same time, each on its own core, and stop when they are told to?
#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "machine.hpp"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace hybrid::machine {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr std::size_t kSpins = 1000;

double seconds(Clock::duration span) { return std::chrono::duration<double>(span).count(); }

void pin(int cpu) {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0 || cpu >= CPU_SETSIZE) throw std::invalid_argument("no core " + std::to_string(cpu));
    CPU_SET(cpu, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0)
        throw std::invalid_argument("this process may not run on core " + std::to_string(cpu));
#else
    (void)cpu;  // other systems place threads themselves
#endif
}

struct Repeats {
    std::vector<std::vector<Clock::time_point>> starts, ends;  // by thread, then repeat
    std::size_t passes = 1;
    std::mutex mutex;
    std::exception_ptr failure;
};

void work_on(std::size_t index, int cpu, const Part& part, double repeat_s, Gate& gate, Repeats& repeats) {
    try {
        pin(cpu);
        part.prepare();
        part.work(1);  // warm: pages, caches and clocks
        gate.meet();
        const auto begun = Clock::now();
        if (!gate.stopped()) part.work(1);
        const double pass_s = seconds(Clock::now() - begun);
        if (index == 0) repeats.passes = static_cast<std::size_t>(std::fmax(1.0, std::ceil(repeat_s / std::fmax(pass_s, 1e-7))));
        for (std::size_t number = 0; number < repeats.starts[index].size() && !gate.stopped(); ++number) {
            gate.meet();
            repeats.starts[index][number] = Clock::now();
            for (std::size_t left = repeats.passes; left > 0 && !gate.stopped();) {
                // In pieces, so that an end is noticed also inside a long repeat.
                const std::size_t piece = left < 64 ? left : left / 8 + 1;
                part.work(piece);
                left -= piece;
            }
            repeats.ends[index][number] = Clock::now();
        }
    } catch (...) {
        const std::lock_guard<std::mutex> lock(repeats.mutex);
        if (!repeats.failure) repeats.failure = std::current_exception();
        gate.stop();
    }
}

void wait_for(std::vector<std::thread>& threads, std::atomic<std::size_t>& running, Gate& gate,
              const std::function<bool()>& should_stop, bool& interrupted) {
    while (running.load() > 0) {
        std::this_thread::sleep_for(kPoll);
        if (!gate.stopped() && should_stop()) {
            interrupted = true;
            gate.stop();
        }
    }
    for (std::thread& thread : threads) thread.join();
}

std::vector<double> pass_seconds(const Repeats& repeats, std::size_t count) {
    std::vector<double> found;
    for (std::size_t number = 0; number < count; ++number) {
        auto first = repeats.starts[0][number];
        auto last = repeats.ends[0][number];
        for (std::size_t index = 1; index < repeats.starts.size(); ++index) {
            first = std::min(first, repeats.starts[index][number]);
            last = std::max(last, repeats.ends[index][number]);
        }
        // A clock with coarse ticks must not give infinite speed.
        found.push_back(std::fmax(seconds(last - first), 1e-9) / static_cast<double>(repeats.passes));
    }
    return found;
}

}  // namespace

void Gate::meet() {
    const std::size_t mine = generation_.load(std::memory_order_acquire);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        waiting_.store(0, std::memory_order_relaxed);
        generation_.store(mine + 1, std::memory_order_release);
        return;
    }
    for (std::size_t spins = 0; generation_.load(std::memory_order_acquire) == mine && !stopped(); ++spins)
        if (spins > kSpins) std::this_thread::yield();
}

std::vector<double> time_together(const std::vector<int>& cpus, const std::vector<Part>& parts, std::size_t repeats,
                                  double repeat_s, const std::function<bool()>& should_stop) {
    Gate gate(cpus.size());
    Repeats found;
    found.starts.assign(cpus.size(), std::vector<Clock::time_point>(repeats));
    found.ends = found.starts;
    std::atomic<std::size_t> running{0};
    std::vector<std::thread> threads;
    bool interrupted = false;
    try {
        for (std::size_t index = 0; index < cpus.size(); ++index) {
            running.fetch_add(1);
            try {
                threads.emplace_back([&, index] {
                    work_on(index, cpus[index], parts[index], repeat_s, gate, found);
                    running.fetch_sub(1);
                });
            } catch (...) {
                running.fetch_sub(1);
                throw;
            }
        }
    } catch (...) {
        gate.stop();  // the system gives no more threads
        wait_for(threads, running, gate, should_stop, interrupted);
        throw;
    }
    wait_for(threads, running, gate, should_stop, interrupted);
    if (interrupted) throw Interrupted{};
    if (found.failure) std::rethrow_exception(found.failure);
    return pass_seconds(found, repeats);
}

}  // namespace hybrid::machine
