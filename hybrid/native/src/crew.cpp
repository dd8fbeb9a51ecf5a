// How are rows shared out? Each thread takes the next one that nobody has taken, until there are none.
#include "crew.hpp"

#include <algorithm>
#include <system_error>
#include <thread>

namespace hybrid {
namespace {

std::atomic<Parallel> openmp{nullptr};

struct Shared {
    const std::function<void(std::size_t)>& work;
    const std::size_t count;
    std::atomic<std::size_t> next{0};

    static void take_all(void* data) {
        Shared& shared = *static_cast<Shared*>(data);
        for (std::size_t i = shared.next++; i < shared.count; i = shared.next++) shared.work(i);
    }
};

}  // namespace

void share_with(Parallel parallel) { openmp = parallel; }

void share(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& work) {
    const Parallel parallel = openmp;
    if (parallel == nullptr || count < 2 || threads < 2) {
        Crew::get().run(count, threads, work);
        return;
    }
    // The whole team even for few rows: libgomp ends the threads that a smaller one leaves over.
    Shared shared{work, count};
    parallel(&Shared::take_all, &shared, static_cast<unsigned>(threads), 0);
}

Crew& Crew::get() {
    static Crew* crew = new Crew;  // not destroyed: at exit a helper may still wait on its members
    return *crew;
}

void Crew::run(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& work) {
    const std::size_t helpers = std::min(threads, count) > 1 ? std::min(threads, count) - 1 : 0;
    if (helpers == 0) {
        for (std::size_t i = 0; i < count; ++i) work(i);
        return;
    }
    const std::lock_guard<std::mutex> alone(one_caller_);
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        call_up(helpers);
        work_ = &work;
        count_ = count;
        next_ = 0;
        wanted_ = helpers;
        ++round_;
    }
    begun_.notify_all();
    take_all();
    std::unique_lock<std::mutex> lock(mutex_);
    work_ = nullptr;
    ended_.wait(lock, [this] { return busy_ == 0; });
}

// Starts the helpers that are missing; where the system gives no more threads, those that are there must do.
void Crew::call_up(std::size_t helpers) {
    try {
        for (; helpers_ < helpers; ++helpers_) std::thread([this, number = helpers_] { help(number); }).detach();
    } catch (const std::system_error&) {
        return;
    }
}

void Crew::help(std::size_t number) {
    std::size_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        begun_.wait(lock, [&] { return round_ != seen; });
        seen = round_;
        if (number >= wanted_ || work_ == nullptr) continue;
        ++busy_;
        lock.unlock();
        take_all();
        lock.lock();
        if (--busy_ == 0) ended_.notify_one();
    }
}

void Crew::take_all() {
    for (std::size_t i = next_++; i < count_; i = next_++) (*work_)(i);
}

}  // namespace hybrid
