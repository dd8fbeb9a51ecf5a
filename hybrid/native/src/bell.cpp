// How does a ring come later than it was asked for, without a thread that waits in between? The kernel's timer rings.
#include "bell.hpp"

#ifdef __linux__
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace hybrid {
namespace {

constexpr long kNowNs = 1, kSoonNs = 1'500'000;
constexpr int kNone = -1;

#ifdef __linux__

int make_timer() { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }

void set_timer(int timer, long after_ns) {
    const itimerspec when{{0, 0}, {0, after_ns}};
    timerfd_settime(timer, 0, &when, nullptr);
}

void await_timer(int timer) {
    pollfd rings{timer, POLLIN, 0};
    poll(&rings, 1, -1);
    std::uint64_t count;
    [[maybe_unused]] const ssize_t got = read(timer, &count, sizeof count);
}

void end_timer(int timer) { close(timer); }

#else

int make_timer() { return kNone; }
void set_timer(int, long) {}
void await_timer(int) {}
void end_timer(int) {}

#endif

}  // namespace

Bell::Bell() : timer_(make_timer()) {}

Bell::~Bell() {
    if (timer_ != kNone) end_timer(timer_);
}

void Bell::wait() {
    if (timer_ != kNone) return await_timer(timer_);
    std::unique_lock<std::mutex> lock(mutex_);
    rung_.wait(lock, [this] { return is_rung_; });
    is_rung_ = false;
}

void Bell::ring() {
    if (timer_ != kNone) return set_timer(timer_, kNowNs);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_rung_ = true;
    }
    rung_.notify_one();
}

void Bell::ring_soon() { timer_ != kNone ? set_timer(timer_, kSoonNs) : ring(); }

}  // namespace hybrid
