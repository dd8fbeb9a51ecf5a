// How is a processor measured? Work on pinned threads that start together, in repeats that are timed from the first
// start to the last end, so that a thread which came late counts.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace hybrid::machine {

// Threads that meet, and leave at once when one of them asked for an end.
class Gate {
   public:
    explicit Gate(std::size_t threads) : threads_(threads) {}
    void meet();
    void stop() { stopped_.store(true, std::memory_order_relaxed); }
    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

   private:
    const std::size_t threads_;
    std::atomic<std::size_t> waiting_{0};
    std::atomic<std::size_t> generation_{0};
    std::atomic<bool> stopped_{false};
};

// One thread's part. `prepare` runs once on its core, before anything is timed; `work` does it `passes` times over.
struct Part {
    std::function<void()> prepare;
    std::function<void(std::size_t passes)> work;
};

// Returns seconds per pass of each repeat. `should_stop` is asked several times a second by the calling thread.
// Throws std::invalid_argument where a thread may not run on its core; what `prepare` throws; Interrupted.
std::vector<double> time_together(const std::vector<int>& cpus, const std::vector<Part>& parts, std::size_t repeats,
                                  double repeat_s, const std::function<bool()>& should_stop);

struct Interrupted {};

// Bytes a second, one item a repeat; kind is read, copy or triad, and counts what the program moves: 1, 2, 3 arrays.
std::vector<double> bandwidth(const std::string& kind, const std::vector<int>& cpus, std::size_t array_bytes,
                              std::size_t repeats, double repeat_s, const std::function<bool()>& should_stop);

// Instruction sets that can be measured here, the simplest first.
std::vector<std::string> fp32_versions();
std::vector<std::string> int8_versions();

// Operations a second (a multiplication and an addition are two), one item a repeat.
std::vector<double> peak(const std::string& number, const std::string& version, const std::vector<int>& cpus,
                         std::size_t repeats, double repeat_s, const std::function<bool()>& should_stop);

// Nanoseconds a load that waits for the one before it, in a working set of `bytes`; one item a repeat.
std::vector<double> latency(int cpu, std::size_t bytes, std::size_t repeats, double repeat_s,
                            const std::function<bool()>& should_stop);

}  // namespace hybrid::machine
