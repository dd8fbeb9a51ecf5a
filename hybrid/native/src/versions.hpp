// How does one loop run on every processor and fast on each? Compiled per instruction set, chosen at the first call.
#pragma once

#if defined(__GNUC__)
#define HYBRID_INLINE inline __attribute__((always_inline))
#else
#define HYBRID_INLINE inline
#endif

// HYBRID_VERSIONS(result, name, (parameters), (arguments)) defines `name` from the always inlined `name##_body`.
// Not target_clones: that needs ifunc, which musl and macOS lack, and its "avx2" excludes fused multiply-add.
#if defined(__GNUC__) && defined(__x86_64__)

namespace hybrid {

enum class Instructions { baseline, avx2, avx512 };

inline Instructions instructions() {
    static const Instructions found = [] {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return Instructions::avx512;
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Instructions::avx2
                                                                               : Instructions::baseline;
    }();
    return found;
}

}  // namespace hybrid

#define HYBRID_VERSIONS(result, name, parameters, arguments)                                                \
    __attribute__((target("avx2,fma"))) static result name##_avx2 parameters { return name##_body arguments; } \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) static result name##_avx512      \
        parameters {                                                                                        \
        return name##_body arguments;                                                                       \
    }                                                                                                       \
    result name parameters {                                                                                \
        switch (instructions()) {                                                                           \
            case Instructions::avx512: return name##_avx512 arguments;                                      \
            case Instructions::avx2: return name##_avx2 arguments;                                          \
            default: return name##_body arguments;                                                          \
        }                                                                                                   \
    }

#else

#define HYBRID_VERSIONS(result, name, parameters, arguments) \
    result name parameters { return name##_body arguments; }

#endif
