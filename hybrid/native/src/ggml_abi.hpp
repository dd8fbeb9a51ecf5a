// What does ggml hand to a matrix multiplication? Its structures as ggml.h (ggml_tensor) and ggml-cpu-impl.h (the parameters) of
// the versions in hybrid/backends/library.py lay them out; nothing of ggml is compiled in.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct ggml_compute_params {
    int ith, nth;  // which of how many threads
    size_t wsize;
    void* wdata;  // a buffer that all threads see
    void* threadpool;
    bool use_ref;
};

struct ggml_tensor {
    int type;
    void* buffer;
    int64_t ne[4];  // elements along each dimension
    size_t nb[4];   // bytes from one to the next
    int op;
    int32_t op_params[16];
    int32_t flags;
    ggml_tensor* src[10];
    ggml_tensor* view_src;
    size_t view_offs;
    void* data;
    char name[64];
    void* extra;
    char padding[8];
};

}  // extern "C"

namespace hybrid {

// Numbers of `enum ggml_type`, which never change, for files hold them.
enum class WeightType : int { f32 = 0, q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q4_k = 12, q5_k = 13, q6_k = 14 };

// How ggml's threads share an operation; the functions of its library.
struct ThreadPool {
    void (*barrier)(void* pool);
    void (*set_next)(void* pool, int chunk);
    int (*add_next)(void* pool, int count);
};

}  // namespace hybrid
