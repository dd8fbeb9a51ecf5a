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

constexpr long kSoonNs = 1'500'000;

}  // namespace

#ifdef __linux__

Bell::Bell() : timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {}

Bell::~Bell() {
    if (timer_ >= 0) close(timer_);
}

void Bell::set(long after_ns) {
    const itimerspec when{{0, 0}, {0, after_ns}};
    timerfd_settime(timer_, 0, &when, nullptr);
}

void Bell::wait() {
    if (timer_ >= 0) {
        pollfd rings{timer_, POLLIN, 0};
        poll(&rings, 1, -1);
        std::uint64_t count;
        [[maybe_unused]] const ssize_t got = read(timer_, &count, sizeof count);
        return;
    }
    std::unique_lock<std::mutex> lock(mutex_);
    rung_.wait(lock, [this] { return is_rung_; });
    is_rung_ = false;
}

void Bell::ring_soon() { timer_ >= 0 ? set(kSoonNs) : ring(); }

#else

Bell::Bell() = default;
Bell::~Bell() = default;
void Bell::set(long) {}

void Bell::wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    rung_.wait(lock, [this] { return is_rung_; });
    is_rung_ = false;
}

void Bell::ring_soon() { ring(); }

#endif

void Bell::ring() {
    if (timer_ >= 0) {
        set(1);
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_rung_ = true;
    }
    rung_.notify_one();
}

}  // namespace hybrid
