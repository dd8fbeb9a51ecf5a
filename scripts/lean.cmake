# What does hybrid leave out of the build of llama.cpp? Everything behind its C API.
#
# CMake includes this right after llama-cpp-python's project() (CMAKE_PROJECT_llama_cpp_INCLUDE). Plain variables, because
# its CMakeLists.txt forces the cache entry: a plain one goes before it under the policies CMP0077 and CMP0126.

# 57 of 140 compile steps: argument parsing, downloads and chat formats for llama.cpp's own programs.
set(LLAMA_BUILD_COMMON OFF)

# A wheel holds no symlinks, so each library would be packed three times (.so, .so.0, .so.0.1.2).
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME TRUE)

# llama.cpp would install its own copy beside the one that is imported.
set(CMAKE_INSTALL_BINDIR llama_cpp/lib)
set(CMAKE_INSTALL_LIBDIR llama_cpp/lib)
set(CMAKE_INSTALL_INCLUDEDIR llama_cpp/include)

# GCC's own _tile_loadconfig tells the compiler that it reads 8 bytes, where the instruction reads 64. So the rest of
# ggml's tile configuration is never written, and each model ends by SIGSEGV at its first prompt on a processor with AMX
# (llama.cpp's issue 20824; GCC 12's amxtileintrin.h).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(hybrid_tile_header "${CMAKE_CURRENT_BINARY_DIR}/hybrid_tile_config.h")
    file(WRITE "${hybrid_tile_header}" [[
#if defined(__x86_64__) && defined(__AMX_TILE__)
#include <immintrin.h>
static inline void hybrid_tile_loadconfig(const void* config) {
    __asm__ volatile("ldtilecfg\t%0" ::"m"(*static_cast<const char(*)[64]>(config)));
}
#undef _tile_loadconfig
#define _tile_loadconfig hybrid_tile_loadconfig
#endif
]])
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:-include;${hybrid_tile_header}>")
endif()
