// How many bytes a second does memory give, and how long does one load take?
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "machine.hpp"
#include "versions.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hybrid::machine {
namespace {

constexpr std::size_t kLine = 64, kPage = std::size_t{2} << 20;
constexpr std::size_t kLanes = 32;

struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
};
using Block = std::unique_ptr<char, Free>;

// Large pages where the system has them: a miss of the address cache at each load is no property of the memory.
Block allocate(std::size_t bytes) {
    const std::size_t rounded = (bytes + kPage - 1) / kPage * kPage;
    void* found = nullptr;
    if (bytes >= kPage) {
        if (posix_memalign(&found, kPage, rounded) != 0) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
        (void)madvise(found, rounded, MADV_HUGEPAGE);
#endif
    } else if (posix_memalign(&found, kLine, (bytes + kLine - 1) / kLine * kLine) != 0) {
        throw std::bad_alloc();
    }
    return Block(static_cast<char*>(found));
}

HYBRID_INLINE std::uint64_t sum_body(const std::uint64_t* values, std::size_t n) {
    std::uint64_t lanes[kLanes] = {};
    for (std::size_t i = 0; i + kLanes <= n; i += kLanes)
        for (std::size_t j = 0; j < kLanes; ++j) lanes[j] += values[i + j];
    std::uint64_t total = 0;
    for (const std::uint64_t lane : lanes) total += lane;
    return total;
}

HYBRID_INLINE void triad_body(float* to, const float* left, const float* right, float scale, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) to[i] = left[i] + scale * right[i];
}

HYBRID_VERSIONS(std::uint64_t, sum, (const std::uint64_t* values, std::size_t n), (values, n))
HYBRID_VERSIONS(void, triad, (float* to, const float* left, const float* right, float scale, std::size_t n),
                (to, left, right, scale, n))

// A result somebody might look at, so that no pass may be left out.
std::atomic<std::uint64_t> sink{0};

struct Slice {
    Block to, left, right;
    std::size_t bytes;
};

Part reading(Slice& slice) {
    return {[&slice] {
                slice.left = allocate(slice.bytes);
                std::memset(slice.left.get(), 1, slice.bytes);
            },
            [&slice](std::size_t passes) {
                std::uint64_t total = 0;
                for (; passes > 0; --passes)
                    total += sum(reinterpret_cast<const std::uint64_t*>(slice.left.get()), slice.bytes / 8);
                sink.fetch_add(total, std::memory_order_relaxed);
            }};
}

Part copying(Slice& slice) {
    return {[&slice] {
                slice.left = allocate(slice.bytes);
                slice.to = allocate(slice.bytes);
                std::memset(slice.left.get(), 1, slice.bytes);
                std::memset(slice.to.get(), 0, slice.bytes);
            },
            [&slice](std::size_t passes) {
                for (; passes > 0; --passes) {
                    std::memcpy(slice.to.get(), slice.left.get(), slice.bytes);
                    sink.fetch_add(static_cast<unsigned char>(slice.to.get()[passes % slice.bytes]));
                }
            }};
}

Part triads(Slice& slice) {
    return {[&slice] {
                slice.left = allocate(slice.bytes);
                slice.right = allocate(slice.bytes);
                slice.to = allocate(slice.bytes);
                const std::size_t n = slice.bytes / sizeof(float);
                std::fill_n(reinterpret_cast<float*>(slice.left.get()), n, 1.0F);
                std::fill_n(reinterpret_cast<float*>(slice.right.get()), n, 2.0F);
                std::memset(slice.to.get(), 0, slice.bytes);
            },
            [&slice](std::size_t passes) {
                float* to = reinterpret_cast<float*>(slice.to.get());
                for (; passes > 0; --passes) {
                    triad(to, reinterpret_cast<const float*>(slice.left.get()),
                          reinterpret_cast<const float*>(slice.right.get()), 0.5F, slice.bytes / sizeof(float));
                    sink.fetch_add(static_cast<std::uint64_t>(to[0]), std::memory_order_relaxed);
                }
            }};
}

// A cycle through every line in random order: no prefetcher guesses it, and no load can begin before the last is done.
// Sattolo's algorithm, with splitmix64 for its choices: the same order on each run.
void link_lines(char* block, std::size_t lines) {
    std::unique_ptr<std::uint32_t[]> order(new std::uint32_t[lines]);
    for (std::size_t i = 0; i < lines; ++i) order[i] = static_cast<std::uint32_t>(i);
    std::uint64_t state = 0;
    for (std::size_t i = lines - 1; i > 0; --i) {
        std::uint64_t mixed = state += 0x9E3779B97F4A7C15U;
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9U;
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBU;
        std::swap(order[i], order[(mixed ^ mixed >> 31) % i]);
    }
    for (std::size_t i = 0; i < lines; ++i)
        *reinterpret_cast<void**>(block + std::size_t{order[i]} * kLine) =
            block + std::size_t{order[(i + 1) % lines]} * kLine;
}

}  // namespace

std::vector<double> bandwidth(const std::string& kind, const std::vector<int>& cpus, std::size_t array_bytes,
                              std::size_t repeats, double repeat_s, const std::function<bool()>& should_stop) {
    const std::size_t slice_bytes = array_bytes / cpus.size() / (kLanes * 8) * (kLanes * 8);
    if (slice_bytes == 0) throw std::invalid_argument("array_bytes is less than 256 bytes a thread");
    std::vector<Slice> slices(cpus.size());
    std::vector<Part> parts;
    for (Slice& slice : slices) {
        slice.bytes = slice_bytes;
        parts.push_back(kind == "read" ? reading(slice) : kind == "copy" ? copying(slice) : triads(slice));
    }
    const double moved = kind == "read" ? 1 : kind == "copy" ? 2 : 3;
    std::vector<double> found = time_together(cpus, parts, repeats, repeat_s, should_stop);
    for (double& value : found) value = moved * static_cast<double>(slice_bytes * cpus.size()) / value;
    return found;
}

std::vector<double> latency(int cpu, std::size_t bytes, std::size_t repeats, double repeat_s,
                            const std::function<bool()>& should_stop) {
    constexpr std::size_t kLoads = 1 << 14;
    const std::size_t lines = bytes / kLine;
    Block block;
    void* at = nullptr;
    const Part part{[&] {
                        block = allocate(lines * kLine);
                        link_lines(block.get(), lines);
                        at = block.get();
                        for (std::size_t i = 0; i < lines; ++i) at = *static_cast<void**>(at);
                    },
                    [&](std::size_t passes) {
                        void* here = at;
                        for (std::size_t left = passes * kLoads; left > 0; --left) here = *static_cast<void* volatile*>(here);
                        at = here;
                        sink.fetch_add(reinterpret_cast<std::uintptr_t>(here), std::memory_order_relaxed);
                    }};
    std::vector<double> found = time_together({cpu}, {part}, repeats, repeat_s, should_stop);
    for (double& value : found) value *= 1e9 / static_cast<double>(kLoads);
    return found;
}

}  // namespace hybrid::machine
