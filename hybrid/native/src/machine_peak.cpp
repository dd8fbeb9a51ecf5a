// How many operations a second can the cores do at most? Chains of the instruction that matters, enough of them side by
// side to fill the units, with nothing read from memory. One version an instruction set; those the processor lacks are
// never called.
#include <stdexcept>
#include <utility>

#include "machine.hpp"

#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define HYBRID_X86 1
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#define HYBRID_ARM 1
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

namespace hybrid::machine {
namespace {

constexpr std::size_t kLoops = 1 << 12;
std::atomic<int> sink{0};

// A value the compiler may not know, nor keep from one turn to the next: nothing is computed once for all turns, and
// chains that begin alike are not taken for one.
#define HYBRID_OPAQUE(constraint, value) __asm__ volatile("" : "+" constraint(value))

// Twelve chains: two units of latency 4 or 5 need 8 to 10, and with the two operands they fit into 16 registers.
#define HYBRID_CHAINS(step) \
    step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
constexpr std::size_t kChains = 12;

struct Version {
    const char* name;
    double operations;  // in one turn of the loop
    void (*run)(std::size_t turns);
    bool (*is_here)();
};

#if HYBRID_X86

void fp32_sse2(std::size_t turns) {
    __m128 sums[kChains] = {}, left = _mm_set1_ps(0.999F), right = _mm_set1_ps(1e-3F);
    for (__m128& sum : sums) HYBRID_OPAQUE("x", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("x", left);
#define STEP(i) sums[i] = _mm_add_ps(_mm_mul_ps(sums[i], left), right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m128 total = sums[0];
    for (const __m128& sum : sums) total = _mm_add_ps(total, sum);
    sink.fetch_add(static_cast<int>(_mm_cvtss_f32(total)), std::memory_order_relaxed);
}

__attribute__((target("avx2,fma"))) void fp32_avx2(std::size_t turns) {
    __m256 sums[kChains] = {}, left = _mm256_set1_ps(0.999F), right = _mm256_set1_ps(1e-3F);
    for (__m256& sum : sums) HYBRID_OPAQUE("x", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("x", left);
#define STEP(i) sums[i] = _mm256_fmadd_ps(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m256 total = sums[0];
    for (const __m256& sum : sums) total = _mm256_add_ps(total, sum);
    sink.fetch_add(static_cast<int>(_mm256_cvtss_f32(total)), std::memory_order_relaxed);
}

__attribute__((target("avx512f"))) void fp32_avx512(std::size_t turns) {
    __m512 sums[kChains] = {}, left = _mm512_set1_ps(0.999F), right = _mm512_set1_ps(1e-3F);
    for (__m512& sum : sums) HYBRID_OPAQUE("v", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("v", left);
#define STEP(i) sums[i] = _mm512_fmadd_ps(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m512 total = sums[0];
    for (const __m512& sum : sums) total = _mm512_add_ps(total, sum);
    sink.fetch_add(static_cast<int>(_mm512_cvtss_f32(total)), std::memory_order_relaxed);
}

// Bytes to pairs of 16 bits, summed there, which codes of four bits allow eight times before they must be widened. Four sums, for
// an addition takes one cycle, and with twelve the compiler keeps them in memory.
__attribute__((target("avx2"))) void int8_avx2(std::size_t turns) {
    __m256i sums[4] = {}, left = _mm256_set1_epi8(3), right = _mm256_set1_epi8(5);
    for (; turns > 0; --turns) {
#define STEP(i)               \
    HYBRID_OPAQUE("x", left); \
    sums[i % 4] = _mm256_add_epi16(sums[i % 4], _mm256_maddubs_epi16(left, right));
        HYBRID_CHAINS(STEP)
#undef STEP
        for (__m256i& sum : sums) HYBRID_OPAQUE("x", sum);
    }
    __m256i total = sums[0];
    for (const __m256i& sum : sums) total = _mm256_add_epi16(total, sum);
    sink.fetch_add(_mm256_extract_epi32(total, 0), std::memory_order_relaxed);
}

__attribute__((target("avx512f,avx512bw"))) void int8_avx512(std::size_t turns) {
    __m512i sums[kChains] = {}, left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(5);
    for (__m512i& sum : sums) HYBRID_OPAQUE("v", sum);
    for (; turns > 0; --turns) {
#define STEP(i)                                                             \
    HYBRID_OPAQUE("v", left);                                               \
    sums[i] = _mm512_add_epi16(sums[i], _mm512_maddubs_epi16(left, right)); \
    HYBRID_OPAQUE("v", sums[i]);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m512i total = sums[0];
    for (const __m512i& sum : sums) total = _mm512_add_epi16(total, sum);
    sink.fetch_add(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)), std::memory_order_relaxed);
}

__attribute__((target("avx512f,avx512vnni"))) void int8_avx512_vnni(std::size_t turns) {
    __m512i sums[kChains] = {}, left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(5);
    for (__m512i& sum : sums) HYBRID_OPAQUE("v", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("v", left);
#define STEP(i) sums[i] = _mm512_dpbusd_epi32(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m512i total = sums[0];
    for (const __m512i& sum : sums) total = _mm512_add_epi32(total, sum);
    sink.fetch_add(_mm_cvtsi128_si32(_mm512_castsi512_si128(total)), std::memory_order_relaxed);
}

#if __GNUC__ >= 11 || defined(__clang__)
#define HYBRID_AVX_VNNI 1
__attribute__((target("avx2,avxvnni"))) void int8_avx_vnni(std::size_t turns) {
    __m256i sums[kChains] = {}, left = _mm256_set1_epi8(3), right = _mm256_set1_epi8(5);
    for (__m256i& sum : sums) HYBRID_OPAQUE("x", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("x", left);
#define STEP(i) sums[i] = _mm256_dpbusd_avx_epi32(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    __m256i total = sums[0];
    for (const __m256i& sum : sums) total = _mm256_add_epi32(total, sum);
    sink.fetch_add(_mm256_extract_epi32(total, 0), std::memory_order_relaxed);
}
#endif

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool always() { return true; }

#if HYBRID_AVX_VNNI
// GCC 11 has the instruction but no name for it in __builtin_cpu_supports: CPUID leaf 7, subleaf 1, EAX bit 4.
bool has_avx_vnni() {
    unsigned a = 7, b = 0, c = 1, d = 0;
    if (!has_avx2()) return false;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (a >> 4 & 1U) != 0;
}
#endif

constexpr Version kFp32[] = {
    {"sse2", 2.0 * 4 * kChains, fp32_sse2, always},
    {"avx2", 2.0 * 8 * kChains, fp32_avx2, has_avx2},
    {"avx512", 2.0 * 16 * kChains, fp32_avx512, has_avx512},
};
constexpr Version kInt8[] = {
    {"avx2", 2.0 * 32 * kChains, int8_avx2, has_avx2},
#if HYBRID_AVX_VNNI
    {"avx_vnni", 2.0 * 32 * kChains, int8_avx_vnni, has_avx_vnni},
#endif
    {"avx512", 2.0 * 64 * kChains, int8_avx512, has_avx512},
    {"avx512_vnni", 2.0 * 64 * kChains, int8_avx512_vnni, has_avx512_vnni},
};

#elif HYBRID_ARM

void fp32_neon(std::size_t turns) {
    float32x4_t sums[kChains] = {}, left = vdupq_n_f32(0.999F), right = vdupq_n_f32(1e-3F);
    for (float32x4_t& sum : sums) HYBRID_OPAQUE("w", sum);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("w", left);
#define STEP(i) sums[i] = vfmaq_f32(right, sums[i], left);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    float32x4_t total = sums[0];
    for (const float32x4_t& sum : sums) total = vaddq_f32(total, sum);
    sink.fetch_add(static_cast<int>(vgetq_lane_f32(total, 0)), std::memory_order_relaxed);
}

void int8_neon(std::size_t turns) {
    int32x4_t sums[kChains] = {};
    for (int32x4_t& sum : sums) HYBRID_OPAQUE("w", sum);
    int8x16_t left = vdupq_n_s8(3), right = vdupq_n_s8(5);
    for (; turns > 0; --turns) {
#define STEP(i)               \
    HYBRID_OPAQUE("w", left); \
    sums[i] = vpadalq_s16(sums[i], vmlal_s8(vmull_s8(vget_low_s8(left), vget_low_s8(right)), vget_high_s8(left), vget_high_s8(right)));
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    int32x4_t total = sums[0];
    for (const int32x4_t& sum : sums) total = vaddq_s32(total, sum);
    sink.fetch_add(vgetq_lane_s32(total, 0), std::memory_order_relaxed);
}

#if defined(__clang__)
#define HYBRID_DOTPROD __attribute__((target("dotprod")))
#define HYBRID_I8MM __attribute__((target("i8mm")))
#else
#define HYBRID_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define HYBRID_I8MM __attribute__((target("arch=armv8.2-a+i8mm")))
#endif

HYBRID_DOTPROD void int8_dotprod(std::size_t turns) {
    int32x4_t sums[kChains] = {};
    for (int32x4_t& sum : sums) HYBRID_OPAQUE("w", sum);
    int8x16_t left = vdupq_n_s8(3), right = vdupq_n_s8(5);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("w", left);
#define STEP(i) sums[i] = vdotq_s32(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    int32x4_t total = sums[0];
    for (const int32x4_t& sum : sums) total = vaddq_s32(total, sum);
    sink.fetch_add(vgetq_lane_s32(total, 0), std::memory_order_relaxed);
}

HYBRID_I8MM void int8_i8mm(std::size_t turns) {
    int32x4_t sums[kChains] = {};
    for (int32x4_t& sum : sums) HYBRID_OPAQUE("w", sum);
    int8x16_t left = vdupq_n_s8(3), right = vdupq_n_s8(5);
    for (; turns > 0; --turns) {
        HYBRID_OPAQUE("w", left);
#define STEP(i) sums[i] = vmmlaq_s32(sums[i], left, right);
        HYBRID_CHAINS(STEP)
#undef STEP
    }
    int32x4_t total = sums[0];
    for (const int32x4_t& sum : sums) total = vaddq_s32(total, sum);
    sink.fetch_add(vgetq_lane_s32(total, 0), std::memory_order_relaxed);
}

bool always() { return true; }
#if defined(__APPLE__)
// Every Mac with Apple silicon has the dot product; i8mm came with the M2, and is not asked for here.
bool has_dotprod() { return true; }
bool has_i8mm() { return false; }
#elif defined(__linux__)
bool has_dotprod() { return (getauxval(AT_HWCAP) >> 20 & 1U) != 0; }  // HWCAP_ASIMDDP
bool has_i8mm() { return (getauxval(AT_HWCAP2) >> 13 & 1U) != 0; }    // HWCAP2_I8MM
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif

constexpr Version kFp32[] = {{"neon", 2.0 * 4 * kChains, fp32_neon, always}};
constexpr Version kInt8[] = {
    {"neon", 2.0 * 16 * kChains, int8_neon, always},
    {"dotprod", 2.0 * 16 * kChains, int8_dotprod, has_dotprod},
    {"i8mm", 2.0 * 32 * kChains, int8_i8mm, has_i8mm},
};

#else

// Another processor or compiler: one plain loop, which says what unaided C++ reaches.
void fp32_plain(std::size_t turns) {
    float sums[kChains] = {};
    for (; turns > 0; --turns)
        for (float& sum : sums) sum = sum * 0.999F + 1e-3F;
    float total = 0;
    for (const float sum : sums) total += sum;
    sink.fetch_add(static_cast<int>(total), std::memory_order_relaxed);
}
bool always() { return true; }
constexpr Version kFp32[] = {{"plain", 2.0 * kChains, fp32_plain, always}};
constexpr std::pair<const Version*, const Version*> kNoInt8{nullptr, nullptr};

#endif

std::pair<const Version*, const Version*> versions(const std::string& number) {
    if (number == "fp32") return {std::begin(kFp32), std::end(kFp32)};
#if HYBRID_X86 || HYBRID_ARM
    return {std::begin(kInt8), std::end(kInt8)};
#else
    return kNoInt8;
#endif
}

std::vector<std::string> names_here(const std::string& number) {
    std::vector<std::string> names;
    const auto [first, last] = versions(number);
    for (const Version* version = first; version != last; ++version)
        if (version->is_here()) names.emplace_back(version->name);
    return names;
}

}  // namespace

std::vector<std::string> fp32_versions() { return names_here("fp32"); }
std::vector<std::string> int8_versions() { return names_here("int8"); }

std::vector<double> peak(const std::string& number, const std::string& version, const std::vector<int>& cpus,
                         std::size_t repeats, double repeat_s, const std::function<bool()>& should_stop) {
    const auto [first, last] = versions(number);
    for (const Version* found = first; found != last; ++found) {
        if (version != found->name || !found->is_here()) continue;
        const auto run = found->run;
        const Part part{[] {}, [run](std::size_t passes) { run(passes * kLoops); }};
        std::vector<double> rates =
            time_together(cpus, std::vector<Part>(cpus.size(), part), repeats, repeat_s, should_stop);
        for (double& value : rates)
            value = found->operations * static_cast<double>(kLoops * cpus.size()) / value;
        return rates;
    }
    throw std::invalid_argument("this processor cannot do " + number + " with " + version);
}

}  // namespace hybrid::machine
