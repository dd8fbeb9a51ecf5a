// How is a waiting thread told of something without its waking up in the middle of what the other one does next?
#pragma once

#include <condition_variable>
#include <mutex>

namespace hybrid {

// One thread waits, another rings; what is rung while nobody waits is heard by the next wait.
class Bell {
  public:
    Bell();
    ~Bell();
    Bell(const Bell&) = delete;
    Bell& operator=(const Bell&) = delete;

    // Returns after a ring; sometimes without one.
    void wait();

    void ring();

    // A ring within some two milliseconds. Linux wakes a thread where it was woken from, and where no core is idle it
    // takes the core of who woke it: a timer does that while all threads compute, instead of between two steps, where
    // those that wait for the caller would spin meanwhile. Without a timer it rings at once.
    void ring_soon();

  private:
    const int timer_;  // Linux's timerfd; -1 where there is none, or no more descriptors: the rest is for then
    std::mutex mutex_;
    std::condition_variable rung_;
    bool is_rung_ = false;
};

}  // namespace hybrid
