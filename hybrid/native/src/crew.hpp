// Who helps with the rows of one step? OpenMP's threads, which have just computed them; else a few of our own that sleep
// between steps. The caller works along with them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>

namespace hybrid {

// Layout: `GOMP_parallel` of libgomp's ABI, which clang's OpenMP has too: `work(data)` on each of a team's threads.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);

// From now on `share` asks this function, which must be that of the program whose teams the caller starts otherwise, and
// of the same size; null: the crew.
void share_with(Parallel parallel);

// Calls work(i) once for each i < count on `threads` threads, the caller among them. `work` must not throw.
void share(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& work);

// One a process, never destroyed: its threads sleep until the process ends. A second caller waits for the first.
class Crew {
  public:
    static Crew& get();

    // Calls work(i) once for each i < count on up to `threads` threads, the caller among them. `work` must not throw.
    // Whoever is not awake in time is not waited for, so a busy machine costs the help and nothing more.
    void run(std::size_t count, std::size_t threads, const std::function<void(std::size_t)>& work);

  private:
    void call_up(std::size_t helpers);
    void help(std::size_t number);
    void take_all();

    std::mutex one_caller_, mutex_;
    std::condition_variable begun_, ended_;
    const std::function<void(std::size_t)>* work_ = nullptr;  // set while there is something to take
    std::atomic<std::size_t> next_{0};
    std::size_t count_ = 0, helpers_ = 0, wanted_ = 0, busy_ = 0, round_ = 0;
};

}  // namespace hybrid
