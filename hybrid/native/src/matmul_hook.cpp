// How does llama.cpp come to use our multiplication? This library, loaded for all before ggml's, defines three of its functions;
// the dynamic linker binds ggml's own calls to the first definition. What is not ours goes on to ggml's. Compiled for any processor.
#include "matmul.hpp"

#include <cpuid.h>

#include <algorithm>
#include <atomic>

namespace {

using Multiply = bool (*)(const ggml_compute_params*, ggml_tensor*);
using MultiplyRepacked = void (*)(int, float*, size_t, const void*, const void*, int, int);

struct Stock {
    Multiply multiply;
    MultiplyRepacked q4_k_8x8, q4_0_8x8;
    hybrid::ThreadPool pool;
} stock;

std::atomic<bool> is_on{false};
std::atomic<int> calls{0};

constexpr int least_columns = 2;  // for one, ggml's products of rows are faster, as nothing need be unpacked for several

// Which versions this processor can run: none, that of AVX2, or that of VNNI too.
int versions() {
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_F16C) == 0) return 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __builtin_cpu_supports("avx512vnni")
               ? 2 : 1;
}

const hybrid::Version* best_of(int versions) { return versions > 1 ? &hybrid::vnni : &hybrid::avx2; }

std::atomic<const hybrid::Version*> version{best_of(versions())};

bool is_ours_on(MultiplyRepacked of_ggml) { return is_on.load(std::memory_order_relaxed) || of_ggml == nullptr; }

}  // namespace

extern "C" {

// How many versions of ours this processor can run.
int hybrid_matmul_support() { return versions(); }

// ggml's own functions, by the address in its library; before any model is computed.
void hybrid_matmul_install(void* multiply, void* q4_k_8x8, void* q4_0_8x8, void* barrier, void* set_next, void* add_next) {
    stock.multiply = reinterpret_cast<Multiply>(multiply);
    stock.q4_k_8x8 = reinterpret_cast<MultiplyRepacked>(q4_k_8x8);
    stock.q4_0_8x8 = reinterpret_cast<MultiplyRepacked>(q4_0_8x8);
    stock.pool.barrier = reinterpret_cast<void (*)(void*)>(barrier);
    stock.pool.set_next = reinterpret_cast<void (*)(void*, int)>(set_next);
    stock.pool.add_next = reinterpret_cast<int (*)(void*, int)>(add_next);
}

// Not while a graph is computed: its threads must all see the same.
void hybrid_matmul_switch(int on) { is_on.store(on != 0); }

// Of the versions that this processor can run, use one of the first `count`, for tests; as the switch, not while a graph is computed.
void hybrid_matmul_limit(int count) { version.store(best_of(std::min(count, versions()))); }

// How many multiplications were ours, modulo 2^32.
int hybrid_matmul_calls() { return calls.load(std::memory_order_relaxed); }

bool ggml_compute_forward_mul_mat_tiled(const ggml_compute_params* params, ggml_tensor* result) {
    const hybrid::Version& ours = *version.load(std::memory_order_relaxed);
    if (is_on.load(std::memory_order_relaxed) && ours.takes(*params, *result, least_columns)) {
        if (params->ith == 0) calls.fetch_add(1, std::memory_order_relaxed);
        if (ours.multiply(*params, *result, stock.pool)) return true;
    }
    return stock.multiply != nullptr && stock.multiply(params, result);  // false: ggml has other ways
}

void ggml_gemm_q4_K_8x8_q8_K(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) {
    const MultiplyRepacked multiply = is_ours_on(stock.q4_k_8x8) ? version.load(std::memory_order_relaxed)->q4_k_8x8 : stock.q4_k_8x8;
    multiply(length, result, stride, weights, columns, column_count, row_count);
}

void ggml_gemm_q4_0_8x8_q8_0(int length, float* result, size_t stride, const void* weights, const void* columns, int column_count, int row_count) {
    const MultiplyRepacked multiply = is_ours_on(stock.q4_0_8x8) ? version.load(std::memory_order_relaxed)->q4_0_8x8 : stock.q4_0_8x8;
    multiply(length, result, stride, weights, columns, column_count, row_count);
}

}  // extern "C"
